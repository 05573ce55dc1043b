"""The service's own unit tests: no model, no torch, no network beyond this machine."""

import json
from collections.abc import Iterator

import pytest
from rhapsode_client import InvalidRequest, Overloaded, RhapsodeError, Unavailable
from rhapsode_client.testing import FakeServer
from service import app
from starlette.testclient import TestClient


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    with FakeServer({"poems": 3}) as server:
        monkeypatch.setenv("RHAPSODE_ADDRESS", server.address)
        monkeypatch.setenv("RHAPSODE_RETRIES", "0")
        yield server


@pytest.fixture
def http(server: FakeServer) -> Iterator[TestClient]:
    with TestClient(app) as http:
        yield http


def events(body: str) -> list[tuple[str, dict[str, object]]]:
    """Name and data of each server-sent event."""
    lines = [event.split("\n") for event in body.strip().split("\n\n")]
    return [(name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for name, data in lines]


def test_a_poem_arrives_word_by_word(server: FakeServer, http: TestClient) -> None:
    server.reply(" and sails", prompt="The sea")
    response = http.post("/poems", json={"theme": "The sea", "seed": 7})
    assert events(response.text) == [
        ("text", {"text": " and"}),
        ("text", {"text": " sails"}),
        ("done", {"finish_reason": "eos", "tokens": 2}),
    ]
    assert response.headers["x-version"] == "poems@3"
    assert server.requests[0].sampling.seed == 7


@pytest.mark.parametrize(
    ("error", "status"), [(Overloaded("busy"), 503), (Unavailable("loading"), 503), (InvalidRequest("too long"), 400)]
)
def test_refusals_have_a_status(server: FakeServer, http: TestClient, error: RhapsodeError, status: int) -> None:
    server.fail(error)
    response = http.post("/poems", json={"theme": "The sea"})
    assert (response.status_code, response.json()) == (status, {"error": str(error)})


def test_callers_are_told_when_to_come_back(server: FakeServer, http: TestClient) -> None:
    server.fail(Overloaded("busy"), retry_after=2.5)
    assert http.post("/poems", json={"theme": "The sea"}).headers["retry-after"] == "3"


def test_what_fails_in_the_middle_ends_with_an_error_event(server: FakeServer, http: TestClient) -> None:
    server.fail(Unavailable("the worker was lost"), after=" and")
    response = http.post("/poems", json={"theme": "The sea"})
    assert events(response.text) == [("text", {"text": " and"}), ("error", {"error": "the worker was lost"})]


@pytest.mark.parametrize("order", [[], {}, {"theme": 5}, {"theme": "The sea", "seed": "x"}])
def test_orders_that_cannot_be_read_are_refused(http: TestClient, order: object) -> None:
    assert http.post("/poems", json=order).status_code == 400


def test_health_follows_the_model(server: FakeServer, http: TestClient) -> None:
    assert http.get("/health").status_code == 200
    server.serving = False
    assert http.get("/health").status_code == 503
