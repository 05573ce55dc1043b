"""A device on which every process hangs: only then is a restart of the server asked for."""

import os
import signal
from contextlib import suppress
from pathlib import Path

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from support.operators import operating
from support.processes import descendants
from support.publishing import publish_tiny
from support.servers import ServerProcess, running_server


@pytest.mark.skipif(not os.environ.get("RHAPSODE_SOAK"), reason="takes a minute: make soak")
def test_liveness_turns_while_no_process_comes_up_and_back_when_one_does(tmp_path: Path) -> None:
    publish_tiny(tmp_path, "poems", seed=1, canary=True)
    flags = ["--threads", "1", "--step-timeout", "2s", "--load-timeout", "20s"]
    with running_server(tmp_path, *flags) as server, operating(server, 1) as operator:
        assert is_alive(server)

        def hang() -> bool:
            """Every process that there is, and each that takes its place."""
            send_all(server, signal.SIGSTOP)
            return not is_alive(server)

        seconds = operator.until(hang, seconds=120)
        assert seconds > 20, "the server has the time that loading may take"
        assert "liveness: NOT_SERVING: an engine process hung on cpu" in server.output
        send_all(server, signal.SIGCONT)
        server.wait_serving("liveness")
        server.wait_serving("model/poems")


def send_all(server: ServerProcess, number: signal.Signals) -> None:
    for pid in descendants(server.process.pid):
        with suppress(ProcessLookupError):  # it was ended meanwhile
            os.kill(pid, number)


def is_alive(server: ServerProcess) -> bool:
    with grpc.insecure_channel(server.address) as channel:
        status = HealthStub(channel).Check(HealthCheckRequest(service="liveness"), timeout=20).status
    return bool(status == HealthCheckResponse.SERVING)
