"""The disk of --state-dir is full; the model directory is moved away and comes back."""

import asyncio
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from rhapsode.v1.admin_pb2 import ModelAdminStatus, SetTrafficRequest
from support.fleet import Fleet
from support.operators import Operator, operating
from support.publishing import publish_tiny
from support.servers import ServerProcess, running_server
from support.streams import Oracle, Streams

SOAK = bool(os.environ.get("RHAPSODE_SOAK"))
TIMES = 10 if SOAK else 1


@contextmanager
def full_disk(server: ServerProcess) -> Iterator[None]:
    """No file may grow, which no writer can tell from a full disk and which needs no privilege."""
    pid = server.process.pid
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, before)


@dataclass(frozen=True)
class Place:
    """A server with two versions, of which the second is the champion at first."""

    server: ServerProcess
    operator: Operator
    root: Path
    flags: tuple[str, ...]
    oracles: dict[int, Oracle]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    root, state = tmp_path_factory.mktemp("disk") / "models", tmp_path_factory.mktemp("state")
    oracles = {seed: Oracle(publish_tiny(root, "poems", seed=seed, canary=True)) for seed in (1, 2)}
    flags = ("--threads", "1", "--standby", "off", "--state-dir", str(state))
    with running_server(root, *flags) as server, operating(server, 2) as operator:
        yield Place(server, operator, root, flags, oracles)


@pytest.mark.slow
async def test_a_model_directory_that_goes_away_and_comes_back_is_no_loss(place: Place) -> None:
    server, operator, root = place.server, place.operator, place.root
    away = root.with_name("away")
    async with Streams(server.address) as streams:
        for _ in range(TIMES):
            logged = len(server.log)
            root.rename(away)
            try:
                await asyncio.to_thread(server.wait_log, "cannot be read", after=logged)
                root.mkdir()  # as a mount point without its mount is
                await streams.until_next(48)
                assert operator.serving() == {2}
                root.rmdir()
            finally:
                away.rename(root)
        Fleet(root).promote(1)
        await asyncio.to_thread(operator.until_serving, 1)
        await streams.until_answered_by(1)
    streams.check(place.oracles)
    assert server.metric("rhapsode_worker_restarts_total") == 0
    assert server.metric("rhapsode_quarantines_total") == 0
    assert "Traceback" not in server.output


@pytest.mark.slow
async def test_a_decision_that_cannot_be_stored_is_none_and_one_that_is_survives_a_restart(place: Place) -> None:
    server, operator = place.server, place.operator
    async with Streams(server.address, count=2) as streams:
        before = operator.status()
        with full_disk(server):
            with pytest.raises(grpc.RpcError) as refused:
                split(operator, {1: 1, 2: 1})
            assert refused.value.code() == grpc.StatusCode.FAILED_PRECONDITION  # type: ignore[attr-defined]
            await streams.until_next(4)
            after = operator.status()
        assert (after.override, after.model.traffic) == (before.override, before.model.traffic)
        assert split(operator, {1: 1, 2: 1}).override.weights == {1: 1, 2: 1}
        await asyncio.to_thread(operator.until_serving, 1, 2)
        await streams.until(lambda: {each.version for each in streams.answers[-8:]} == {1, 2})
    streams.check(place.oracles)
    assert server.metric("rhapsode_traffic_override", model="poems") == 1
    server.process.kill()
    server.process.wait()
    if SOAK:
        with running_server(place.root, *place.flags) as again, operating(again, 1, 2) as operator:
            assert operator.status().override.reason == "a test"


def split(operator: Operator, weights: dict[int, int]) -> ModelAdminStatus:
    request = SetTrafficRequest(model="poems", weights=weights, reason="a test")
    return operator.admin.SetTraffic(request, timeout=20).status
