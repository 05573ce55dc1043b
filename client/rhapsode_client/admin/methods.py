"""The calls that the AdminClient makes."""

from rhapsode.v1 import admin_pb2 as pb

from rhapsode_client.admin import convert
from rhapsode_client.methods import Method

_ADMIN = "/rhapsode.v1.AdminService"

GET_STATUS = Method(f"{_ADMIN}/GetStatus", pb.GetStatusResponse, convert.server_status)
SET_TRAFFIC = Method(f"{_ADMIN}/SetTraffic", pb.SetTrafficResponse, convert.decided)
CLEAR_TRAFFIC = Method(f"{_ADMIN}/ClearTraffic", pb.ClearTrafficResponse, convert.decided)
PROMOTE = Method(f"{_ADMIN}/Promote", pb.PromoteResponse, convert.decided)
PIN = Method(f"{_ADMIN}/Pin", pb.PinResponse, convert.decided)
ROLLBACK = Method(f"{_ADMIN}/Rollback", pb.RollbackResponse, convert.decided)
LOAD_VERSION = Method(f"{_ADMIN}/LoadVersion", pb.LoadVersionResponse, convert.decided)
UNLOAD_VERSION = Method(f"{_ADMIN}/UnloadVersion", pb.UnloadVersionResponse, convert.decided)
DRAIN = Method(f"{_ADMIN}/Drain", pb.DrainResponse, convert.drain_status)
