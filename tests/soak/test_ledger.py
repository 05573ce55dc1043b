"""What the soak would notice."""

import json

import pytest

from .ledger import Ledger


def line(**fields: object) -> str:
    told = {"message": "request", "request_id": "soak-1", "method": "Generate", "outcome": "ok", "generated_tokens": 5}
    return json.dumps(told | fields)


def ledger_of(outcome: str, num_tokens: int, *log: str, was_heard: bool = True) -> Ledger:
    """A call that ended so for its caller, and what the log says of it."""
    ledger = Ledger()
    _, entry = ledger.open("Generate", "songs")
    entry.outcome, entry.num_tokens, entry.was_heard = outcome, num_tokens, was_heard
    ledger.read(log)
    return ledger


@pytest.mark.parametrize(
    ("outcome", "num_tokens", "told"),
    [
        ("ok", 5, {}),
        ("cancelled", 3, {"outcome": "cancelled"}),
        ("deadline", 0, {"outcome": "deadline"}),
        ("unavailable", 2, {"outcome": "unavailable"}),
        ("partly", 2, {}),
    ],
)
def test_a_call_and_its_line_add_up(outcome: str, num_tokens: int, told: dict[str, object]) -> None:
    ledger = ledger_of(outcome, num_tokens, line(**told))
    assert ledger.open_ends() == []
    assert ledger.settle() == []
    assert (ledger.sent, ledger.generated) == ({outcome: 1}, {"songs": 5})


def test_who_was_not_heard_has_no_line() -> None:
    assert ledger_of("deadline", 0, was_heard=False).settle() == []


@pytest.mark.parametrize(
    ("outcome", "num_tokens", "log"),
    [
        ("ok", 5, []),
        ("ok", 5, [line(), line()]),
        ("ok", 5, [line(), line(request_id="soak-7")]),
        ("ok", 4, [line()]),
        ("cancelled", 6, [line(outcome="cancelled")]),
        ("ok", 5, [line(outcome="cancelled")]),
        ("ok", 5, [line(method="Score")]),
        ("StatusCode.INTERNAL: a bug", 0, [line(outcome="error")]),
    ],
    ids=["lost", "doubled", "of nobody", "token lost", "token added", "other end", "other method", "bug"],
)
def test_what_does_not_add_up_is_said(outcome: str, num_tokens: int, log: list[str]) -> None:
    [complaint] = ledger_of(outcome, num_tokens, *log).settle()
    assert "soak-" in complaint
