"""`rhapsode models`, and commands without a server."""

import json

import pytest
from rhapsode.v1 import models_pb2


def test_models_are_a_table_with_a_line_each_version(rhapsode):
    result = rhapsode("models")
    assert result.exit_code == 0
    header, serving, refused = (line.split() for line in result.stdout.splitlines())
    assert header == ["model", "version", "aliases", "traffic", "state", "dtype", "device", "context", "bits/byte"]
    assert serving == ["poems", "2", "champion", "75%", "serving", "float32", "cpu", "256", "1.250"]
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


@pytest.mark.parametrize("command", [["models"], ["tokenize", "x"], ["health"]])
def test_nobody_listens(rhapsode, free_address, command):
    result = rhapsode(*command, "--address", free_address)
    assert (result.exit_code, result.stdout) == (4, "")
    assert f"no answer from a server at {free_address}" in result.stderr
