"""Errors, figures and versions in the words of the page."""

from typing import Any

import pytest
from rhapsode_client import Completion, FinishReason, Model, ModelVersion, Timings, Usage, VersionState, errors
from rhapsode_client.ui.messages import ending, explained, figures
from rhapsode_client.ui.versions import Choice, choices, to_compare


def with_fields(error: errors.RhapsodeError, **fields: Any) -> errors.RhapsodeError:
    for name, value in fields.items():
        setattr(error, name, value)
    return error


TWO = (errors.Violation("sampling.top_p", "must be at most 1"), errors.Violation("model", "too long"))


@pytest.mark.parametrize(
    ("error", "title", "text"),
    [
        (errors.InvalidRequest.of("prompt", "too long"), "The server does not accept this", "prompt: too long"),
        (
            with_fields(errors.InvalidRequest("2 fields"), violations=TWO),
            "The server does not accept this",
            "sampling.top_p: must be at most 1\nmodel: too long",
        ),
        (
            errors.Unavailable("refused"),
            "No server answers at here:1",
            "Start one with: rhapsode-serve --models ./models",
        ),
        (
            with_fields(errors.Overloaded("the queue is full"), retry_after=2.5, request_id="r-1"),
            "The server cannot take this now",
            "the queue is full\nTry again in 2.5 s.\nRequest id: r-1",
        ),
        (errors.Overloaded("the queue is full"), "The server cannot take this now", "the queue is full"),
        (errors.DeadlineExceeded("late"), "It took longer than allowed", "rhapsode ui --timeout"),
        (errors.Unauthenticated("who?"), "The server asks who you are", "Start rhapsode ui with RHAPSODE_TOKEN set."),
        (errors.NotFound("no version 9"), "There is no such version on the server", "no version 9"),
        (with_fields(errors.ServerError("boom"), request_id="r-2"), "The server failed", "boom\nRequest id: r-2"),
    ],
)
def test_errors(error: errors.RhapsodeError, title: str, text: str):
    told = explained(error, "here:1")
    assert told.title == title
    assert told.text.startswith(text)


def completion(first_token: float | None, total: float) -> Completion:
    return Completion(
        text="",
        finish_reason=FinishReason.EOS,
        matched_stop=None,
        model="poems",
        version=1,
        seed=1,
        token_ids=(),
        usage=Usage(prompt_tokens=4, cached_tokens=0, completion_tokens=30),
        timings=Timings(queue=0, first_token=first_token, total=total),
        sampling=None,  # type: ignore[arg-type]
        request_id="",
    )


def test_figures():
    told = "4 + 30 tokens \u00b7 first after 12 ms \u00b7 all after 0.50 s \u00b7 60 tokens/s"
    assert figures(completion(0.012, 0.5)) == told
    assert figures(completion(None, 0.0)) == "4 + 30 tokens \u00b7 all after 0.00 s"
    assert ending(completion(None, 0.0)) == "the model ended it"


def model(name: str, *states: str, **aliases: int) -> Model:
    versions = tuple(
        ModelVersion(
            version=number,
            state=VersionState(state),
            reason="",
            dtype="",
            device="",
            parameter_count=0,
            limits=None,
            evaluation=None,
        )
        for number, state in enumerate(states, start=1)
    )
    return Model(name=name, aliases=aliases, versions=versions, traffic={})


def test_versions_newest_first_and_none_that_never_answers():
    found = choices([model("poems", "unloaded", "quarantined", "serving", "ready", champion=3, best=3)])
    assert found == {
        Choice("poems"): "poems \u00b7 as served",
        Choice("poems", 4): "poems 4",
        Choice("poems", 3): "poems 3 \u00b7 champion \u00b7 best",
        Choice("poems", 1): "poems 1 \u00b7 unloaded",
    }
    assert to_compare(list(found)) == (Choice("poems", 3), Choice("poems", 4))


def test_what_is_compared():
    assert to_compare(list(choices([]))) is None
    assert to_compare(list(choices([model("poems", "serving")]))) is None
    two = list(choices([model("poems", "serving"), model("tales", "serving")]))
    assert to_compare(two) == (Choice("poems"), Choice("tales"))


def test_before_there_is_a_model():
    assert choices([]) == {Choice(): "no model yet"}
