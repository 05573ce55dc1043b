"""`rhapsode health`."""

import json
import threading

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckResponse


@pytest.mark.parametrize(("status", "code"), [("SERVING", 0), ("NOT_SERVING", 4), ("UNKNOWN", 4)])
def test_health(rhapsode, server, status, code):
    server.scripts["Check"] = [HealthCheckResponse(status=status)]
    result = rhapsode("health", "--service", "model/poems")
    assert (result.exit_code, result.stdout) == (code, f"{status}\n")
    assert server.requests[0].service == "model/poems"


def test_health_as_json(rhapsode):
    assert json.loads(rhapsode("health", "--json").stdout) == {"service": "", "status": "SERVING"}


def test_health_of_a_service_that_is_not_there(rhapsode, server, failure):
    server.scripts["Check"] = [failure(code=grpc.StatusCode.NOT_FOUND, message="no such service")]
    assert rhapsode("health", "--service", "odes").exit_code == 3


def test_waits_until_it_serves(process, server):
    server.scripts["Check"] = [HealthCheckResponse(status="NOT_SERVING")]
    running = process("health", "--wait", "30s")
    assert server.arrived.wait(10)
    server.scripts["Check"] = [HealthCheckResponse(status="SERVING")]
    assert running.communicate(timeout=10) == (b"SERVING\n", b"")
    assert running.returncode == 0
    assert len(server.requests) >= 2


def test_waits_for_a_server_that_is_not_there_and_says_so(rhapsode, free_address):
    result = rhapsode("health", "--wait", "0.3s", "--address", free_address)
    assert (result.exit_code, result.stdout) == (4, "")
    assert f"no answer from a server at {free_address}" in result.stderr


def test_waits_for_a_model_that_is_to_come(rhapsode, server, failure):
    server.scripts["Check"] = [failure(code=grpc.StatusCode.NOT_FOUND, message="no such service")]
    assert rhapsode("health", "--service", "model/odes", "--wait", "0.3s").exit_code == 3
    assert len(server.requests) >= 2


def test_a_server_that_hangs_is_no_reason_to_wait_longer(rhapsode, server):
    server.scripts["Check"] = [threading.Event()]
    assert rhapsode("health", "--wait", "0.1s").exit_code == 5


def test_a_wait_has_a_unit(rhapsode):
    result = rhapsode("health", "--wait", "60")
    assert result.exit_code == 2
    assert "write a number with its unit" in result.stderr
