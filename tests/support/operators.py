"""What can be asked of a running server by gRPC, and waited for."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Self

import grpc
from rhapsode.v1.admin_pb2 import GetStatusRequest, ModelAdminStatus
from rhapsode.v1.admin_pb2_grpc import AdminServiceStub
from rhapsode.v1.models_pb2 import GetModelRequest, Model, VersionState
from rhapsode.v1.models_pb2_grpc import ModelServiceStub

from support.servers import ServerProcess

PATIENCE = 180.0
"""Seconds after which what a test waits for counts as lost."""

POLL = 0.02


class Operator:
    """`admin` is there when the server has an admin address."""

    def __init__(self, server: ServerProcess) -> None:
        self.server = server
        self._channels = [grpc.insecure_channel(server.address)]
        self._models = ModelServiceStub(self._channels[0])
        if server.admin_address:
            self._channels.append(grpc.insecure_channel(server.admin_address))
            self.admin = AdminServiceStub(self._channels[1])

    def model(self, name: str = "poems") -> Model:
        return self._models.GetModel(GetModelRequest(model=name), timeout=20).model

    def states(self, name: str = "poems") -> dict[int, str]:
        """Of each version that the server knows: its state in lower case."""
        return {version.version: state_of(version.state) for version in self.model(name).versions}

    def reason(self, version: int, name: str = "poems") -> str:
        """Why it is quarantined: the word before the colon; empty if it is not."""
        reasons = {each.version: each.reason for each in self.model(name).versions}
        return reasons.get(version, "").partition(":")[0]

    def serving(self, name: str = "poems") -> set[int]:
        """The versions that requests go to which name none."""
        return {version for version, weight in self.model(name).traffic.items() if weight}

    def status(self, name: str = "poems") -> ModelAdminStatus:
        models = self.admin.GetStatus(GetStatusRequest(), timeout=20).models
        [status] = [each for each in models if each.model.name == name]
        return status

    def standby_ready(self) -> bool:
        return bool(self.admin.GetStatus(GetStatusRequest(), timeout=20).standby_ready)

    def worker_of(self, version: int, name: str = "poems") -> int:
        """The process id of the version's worker; 0 while there is none."""
        ids = [replica.process_id for replica in self.status(name).replicas if replica.version == version]
        return ids[0] if ids else 0

    def until(self, holds: Callable[[], object], seconds: float = PATIENCE) -> float:
        """Waits until it does; returns after how many seconds. Nothing tells from outside: it asks again and again."""
        began = time.monotonic()
        while not holds():
            assert time.monotonic() - began < seconds, f"not within {seconds} s:\n{self.states()}\n{self.what_happened}"
            time.sleep(POLL)
        return time.monotonic() - began

    @property
    def what_happened(self) -> str:
        """The server's log without the lines of single calls."""
        return "".join(line for line in self.server.log if " request " not in line)

    def until_serving(self, *versions: int, seconds: float = PATIENCE) -> float:
        """Until exactly these have traffic."""
        return self.until(lambda: self.serving() == set(versions), seconds)

    def close(self) -> None:
        for channel in self._channels:
            channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def state_of(value: int) -> str:
    return VersionState.Name(value).removeprefix("VERSION_STATE_").lower()


@contextmanager
def operating(server: ServerProcess, *versions: int) -> Iterator[Operator]:
    """An operator of a server on which exactly these versions have traffic."""
    with Operator(server) as operator:
        server.wait_serving()
        operator.until_serving(*versions)
        yield operator
