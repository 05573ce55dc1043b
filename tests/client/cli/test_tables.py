"""`rhapsode models`, `rhapsode tokenize` and `rhapsode health`."""

import json

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckResponse
from rhapsode.v1 import generation_pb2 as pb
from rhapsode.v1 import models_pb2


def test_models_are_a_table_with_a_line_each_version(rhapsode):
    result = rhapsode("models")
    assert result.exit_code == 0
    header, serving, refused = (line.split() for line in result.stdout.splitlines())
    assert header == ["model", "version", "aliases", "state", "dtype", "device", "context"]
    assert serving == ["poems", "2", "champion", "serving", "float32", "cpu", "256"]
    assert refused == ["poems", "3", "candidate", "quarantined:", "unsupported_architecture:", "[red]GPT-Neo"]


def test_a_pipe_gets_every_character_of_a_cell(rhapsode, server):
    refused = models_pb2.ModelVersion(version=1, state=models_pb2.VERSION_STATE_QUARANTINED, reason="why " * 100)
    model = models_pb2.Model(name="poems", versions=[refused])
    server.scripts["ListModels"] = [models_pb2.ListModelsResponse(models=[model])]
    assert ("why " * 100).strip() in rhapsode("models").stdout


def test_models_as_json(rhapsode):
    [model] = json.loads(rhapsode("models", "--json").stdout)
    assert model["aliases"] == {"candidate": 3, "champion": 2}
    assert model["versions"][0]["limits"]["vocabulary_size"] == 2048
    assert model["versions"][1]["state"] == "quarantined"


def test_no_model_yet(rhapsode, server):
    server.scripts["ListModels"] = [models_pb2.ListModelsResponse()]
    result = rhapsode("models")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "the server knows no model yet\n")
    assert rhapsode("models", "--json").stdout == "[]\n"


def test_tokens(rhapsode, server):
    result = rhapsode("tokenize", "séa", "--version", "2")
    assert [line.split() for line in result.stdout.splitlines()] == [
        ["id", "piece", "start", "end"],
        ["5", "Ġséa", "0", "5"],
    ]
    assert server.requests == [pb.TokenizeRequest(text="séa", version=2)]


def test_tokens_as_json(rhapsode):
    assert json.loads(rhapsode("tokenize", "séa", "--json").stdout) == [
        {"id": 5, "piece": "Ġséa", "start": 0, "end": 5}
    ]


@pytest.mark.parametrize("command", [["models"], ["tokenize", "x"], ["health"]])
def test_nobody_listens(rhapsode, free_address, command):
    result = rhapsode(*command, "--address", free_address)
    assert (result.exit_code, result.stdout) == (4, "")
    assert f"no answer from a server at {free_address}" in result.stderr


@pytest.mark.parametrize(("status", "code"), [("SERVING", 0), ("NOT_SERVING", 4), ("UNKNOWN", 4)])
def test_health(rhapsode, server, status, code):
    server.scripts["Check"] = [HealthCheckResponse(status=status)]
    result = rhapsode("health", "--service", "model/poems")
    assert (result.exit_code, result.stdout) == (code, f"{status}\n")
    assert server.requests[0].service == "model/poems"


def test_health_of_a_service_that_is_not_there(rhapsode, server, failure):
    server.scripts["Check"] = [failure(code=grpc.StatusCode.NOT_FOUND, message="no such service")]
    assert rhapsode("health", "--service", "odes").exit_code == 3


def test_a_terminal_shows_the_table_without_control_characters(process, terminal, server):
    token = pb.Token(id=1, piece="\x1b[2Jsea[red]", end=3)
    server.scripts["Tokenize"] = [pb.TokenizeResponse(tokens=[token])]
    running = process("tokenize", "sea", stdout=terminal.theirs)
    shown = terminal.read_until(b"[red]")
    assert b"[2Jsea[red]" in shown
    assert b"\x1b[2J" not in shown
    assert running.wait(10) == 0
