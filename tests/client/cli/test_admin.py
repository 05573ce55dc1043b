"""`rhapsode admin`: decisions, the status in a table, and the table as it changes."""

import json
import re

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from rhapsode.v1 import admin_pb2 as pb
from rhapsode.v1 import models_pb2

OVERRIDE = (
    "poems: override 2 (90%), 3 (10%) until the fleet decides anew, at the latest 2027-01-15 08:00:00 UTC: try [red]3"
)
LATE = "poems: traffic moves once all are ready; 3 is quarantined: unsupported_architecture: [red]GPT-Neo"
QUARANTINED = "poems 3: quarantined: unsupported_architecture: [red]GPT-Neo"


def test_the_status_is_a_table_with_a_line_each_version(rhapsode):
    result = rhapsode("admin", "status")
    assert result.exit_code == 0, result.stderr
    first, header, serving, refused, *remarks = result.stdout.splitlines()
    assert re.fullmatch(
        r"node-7-50051, release 0\.1\.0, up \d+ d( \d+ h)?( \d+ min)?, open calls: 3, standby ready, "
        "DRAINED: new calls are refused",
        first,
    )
    assert header.split() == ["model", "version", "traffic", "state", "running", "waiting", "processes", "aliases"]
    processes = ["4711@cpu,", "starting", "(restarts:", "2)"]
    assert serving.split() == ["poems", "2", "75%", "serving", "8", "2", *processes, "champion"]
    assert refused.split() == ["3", "quarantined", "candidate"]
    assert remarks == [OVERRIDE, LATE, QUARANTINED]


def test_the_status_as_json(rhapsode):
    status = json.loads(rhapsode("admin", "status", "--json").stdout)
    assert status["started_at"] == "2023-11-14T22:13:20+00:00"
    [poems] = status["models"]
    assert poems["model"]["traffic"] == {"1": 30, "2": 90}
    assert poems["traffic_source"] == "override"
    assert poems["override"]["weights"] == {"2": 90, "3": 10}
    assert poems["replicas"][1]["restarts"] == 2


@pytest.mark.parametrize(
    ("source", "remark"),
    [
        ("CHAMPION", None),
        ("PINNED", "poems: the fleet holds it on a version (alias pinned)"),
        ("WEIGHTS", "poems: the fleet splits its requests (traffic.json)"),
        ("FALLBACK", "poems: the version that was decided on cannot serve here now; the one before goes on"),
        ("UNSPECIFIED", "poems: no version serves"),
    ],
)
def test_what_is_out_of_the_ordinary_is_said(rhapsode, server, source, remark):
    model = pb.ModelAdminStatus(model=models_pb2.Model(name="poems"), traffic_source=f"TRAFFIC_SOURCE_{source}")
    server.scripts["GetStatus"] = [pb.GetStatusResponse(server="n", release="1", models=[model])]
    assert rhapsode("admin", "status").stdout.splitlines()[2:] == ([remark] if remark else [])


def test_a_server_without_models(rhapsode, server):
    now = Timestamp()
    now.GetCurrentTime()
    server.scripts["GetStatus"] = [pb.GetStatusResponse(server="n", release="1", started_at=now)]
    assert re.match(r"n, release 1, up \d+ s, open calls: 0, no model yet\n", rhapsode("admin", "status").stdout)


def test_a_server_that_is_not_ready_says_why(rhapsode, server):
    because = "poems 3 is quarantined (load_failed: [red]no weights)"
    server.scripts["GetStatus"] = [pb.GetStatusResponse(server="n", release="1", not_ready_because=because)]
    assert rhapsode("admin", "status").stdout.splitlines()[0].endswith(f", open calls: 0, NOT READY: {because}")


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (
            ["traffic", "poems", "12=90", "13=10", "14=0", "--for", "2h", "--reason", "try 13"],
            pb.SetTrafficRequest(
                model="poems", weights={12: 90, 13: 10, 14: 0}, ttl=Duration(seconds=7200), reason="try 13"
            ),
        ),
        (["clear", "poems"], pb.ClearTrafficRequest(model="poems")),
        (
            ["promote", "poems", "13", "--for", "1.5m"],
            pb.PromoteRequest(model="poems", version=13, ttl=Duration(seconds=90)),
        ),
        (["pin", "poems", "13", "--for", "7d"], pb.PinRequest(model="poems", version=13, ttl=Duration(seconds=604800))),
        (["rollback", "poems", "--reason", "rhymes"], pb.RollbackRequest(model="poems", reason="rhymes")),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_decision_says_where_requests_go_and_what_it_waits_for(rhapsode, server, command, message):
    result = rhapsode("admin", *command)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.splitlines() == ["poems: requests go to 1 (25%), 2 (75%)", OVERRIDE, LATE]
    assert server.requests == [message]
    assert json.loads(rhapsode("admin", *command, "--json").stdout)["traffic_source"] == "override"


def test_versions_are_loaded_and_unloaded(rhapsode, server):
    assert rhapsode("admin", "load", "poems", "2", "--for", "30s").stdout == "poems 2: serving\n"
    assert rhapsode("admin", "unload", "poems", "9").stdout == "poems 9: unloaded\n"
    assert json.loads(rhapsode("admin", "unload", "poems", "2", "--json").stdout)["model"]["name"] == "poems"
    assert server.requests[:2] == [
        pb.LoadVersionRequest(model="poems", version=2, ttl=Duration(seconds=30)),
        pb.UnloadVersionRequest(model="poems", version=9),
    ]


def test_drain_and_resume(rhapsode, server):
    assert rhapsode("admin", "drain").stdout == "drained: new calls are refused; open calls: 3\n"
    server.scripts["Drain"] = [pb.DrainResponse(open_calls=1)]
    assert rhapsode("admin", "resume").stdout == "in rotation; open calls: 1\n"
    assert json.loads(rhapsode("admin", "resume", "--json").stdout) == {"draining": False, "open_calls": 1}
    assert [request.resume for request in server.requests] == [False, True, True]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["traffic", "poems", "12:90"], "'12:90' is not VERSION=WEIGHT, such as 12=90"),
        (["traffic", "poems", "12=1", "12=2"], "version 12 is given twice"),
        (["traffic", "poems"], "Missing argument"),
        (["pin", "poems", "12", "--for", "2"], "'2' is not a duration"),
        (["pin", "poems", "0"], "greater than or equal to 1"),
        (["status", "--watch", "--interval", "0"], "'0' is not a positive number of seconds"),
    ],
)
def test_bad_usage(rhapsode, server, arguments, complaint):
    result = rhapsode("admin", *arguments)
    assert result.exit_code == 2
    assert complaint in result.stderr
    assert not server.requests


@pytest.mark.parametrize(
    ("code", "exit_code"),
    [
        (grpc.StatusCode.FAILED_PRECONDITION, 1),
        (grpc.StatusCode.INVALID_ARGUMENT, 2),
        (grpc.StatusCode.NOT_FOUND, 3),
        (grpc.StatusCode.UNAVAILABLE, 4),
    ],
)
def test_exit_codes(rhapsode, server, failure, code, exit_code):
    server.scripts["Promote"] = [
        failure(code=code, message="version 13: hash_mismatch", metadata=[("x-request-id", "r")])
    ]
    result = rhapsode("admin", "promote", "poems", "13")
    assert (result.exit_code, result.stdout) == (exit_code, "")
    assert "version 13: hash_mismatch" in result.stderr


def test_nobody_listens(rhapsode, free_address):
    result = rhapsode("admin", "status", "--address", free_address)
    assert result.exit_code == 4
    assert f"no answer from a server at {free_address}" in result.stderr
    assert "RHAPSODE_ADMIN_ADDRESS" in result.stderr


def test_an_address_without_the_service(rhapsode, server, failure):
    server.scripts["GetStatus"] = [failure(code=grpc.StatusCode.UNIMPLEMENTED, message="Method not found!")]
    result = rhapsode("admin", "status")
    assert result.exit_code == 1
    assert f"no AdminService answers at {server.address}: Method not found!" in result.stderr


def test_a_watch_that_never_saw_the_server_fails(rhapsode, free_address):
    assert rhapsode("admin", "status", "--watch", "--address", free_address).exit_code == 4


def test_a_watch_on_a_terminal_is_a_table_that_changes(process, terminal, server, failure, interrupt):
    running = process("admin", "status", "--watch", "--interval", "0.01", stdout=terminal.theirs)
    terminal.read_until(b"quarantined: unsupported_architecture")
    server.scripts["GetStatus"] = [pb.GetStatusResponse(server="an\x1b]0;evil\x07other", release="2")]
    assert b"\x1b]0;evil" not in terminal.read_until(b"release 2")
    server.scripts["GetStatus"] = [failure(code=grpc.StatusCode.UNAVAILABLE, message="it is away")]
    terminal.read_until(b"no answer from")
    server.scripts["GetStatus"] = [pb.GetStatusResponse(server="back", release="3")]
    terminal.read_until(b"release 3")
    interrupt(running)
    assert running.wait(10) == 130


def test_a_watch_into_a_pipe_is_one_table_after_the_other(process, server, failure, interrupt):
    running = process("admin", "status", "--watch", "--interval", "0.01")
    assert running.stdout.readline().startswith(b"node-7-50051, ")
    server.scripts["GetStatus"] = [failure(code=grpc.StatusCode.UNAVAILABLE, message="it is away")]
    assert b"it is away" in running.stderr.readline()
    server.scripts["GetStatus"] = [pb.GetStatusResponse(server="back", release="3")]
    lines = iter(running.stdout.readline, b"")
    assert any(line.startswith(b"back, release 3") for line in lines)
    interrupt(running)
    assert running.wait(10) == 130


def test_a_watch_as_json_is_one_line_each(process, interrupt):
    running = process("admin", "status", "--watch", "--json", "--interval", "0.01")
    assert [json.loads(running.stdout.readline())["open_calls"] for _ in range(3)] == [3, 3, 3]
    interrupt(running)
    assert running.wait(10) == 130
