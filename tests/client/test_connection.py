"""What gRPC is told about a connection, beside what the server allows."""

import json
from pathlib import Path

from rhapsode_client.connection import Connection
from rhapsode_client.retries import retry_options
from rhapsode_server.config import ServerConfig
from rhapsode_server.rpc.transport import server_options


def test_the_server_accepts_the_clients_pings() -> None:
    client = dict(Connection.resolve("a:1", None, None, None, {}).channel_options)
    server = dict(server_options(ServerConfig(models=Path("models"))))
    assert client["grpc.keepalive_time_ms"] >= 2 * server["grpc.http2.min_ping_interval_without_data_ms"]
    assert client["grpc.keepalive_permit_without_calls"] <= server["grpc.keepalive_permit_without_calls"]


def test_retries_are_those_of_grpcs_service_config() -> None:
    assert retry_options(0) == ()
    config = json.loads(str(dict(retry_options(2))["grpc.service_config"]))
    [methods] = config["methodConfig"]
    assert methods["retryPolicy"]["maxAttempts"] == 3
    assert methods["retryPolicy"]["retryableStatusCodes"] == ["UNAVAILABLE", "RESOURCE_EXHAUSTED"]
