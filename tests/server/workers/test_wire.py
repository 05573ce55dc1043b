"""Messages between the front-end and a worker, however the socket cuts them."""

import pickle
import socket
from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rhapsode_server.engine.engine import EngineStats, StepResult
from rhapsode_server.engine.events import Started, TokenEvent
from rhapsode_server.engine.request import FinishReason, TokenScore
from rhapsode_server.workers.messages import Cancel, Step
from rhapsode_server.workers.wire import RECEIVE_SIZE, Outbox, Unpacker, packed

STATS = EngineStats(waiting=0, running=1, blocks_used=1, blocks_total=9, batch_rows=1, batch_tokens=1)


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


@given(st.lists(st.binary(max_size=40)), st.lists(st.integers(0, 400)))
def test_messages_do_not_depend_on_how_bytes_arrive(messages: list[bytes], cuts: list[int]) -> None:
    data, unpacker = b"".join(map(packed, messages)), Unpacker()
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    parts = [data[begin:end] for begin, end in pairwise(edges)]
    assert [message for part in parts for message in unpacker.feed(part)] == messages


def test_what_a_socket_does_not_take_waits_for_the_next_message(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    outbox, unpacker = Outbox(ours), Unpacker()
    sent = [Cancel(number) for number in range(30_000)]
    for message in sent[:-1]:
        outbox.send(message)  # would hang here if it waited
    assert not outbox.is_empty
    received: list[object] = []
    while not outbox.is_empty:
        received += unpacker.feed(theirs.recv(RECEIVE_SIZE))
        outbox.push()
    outbox.send(sent[-1])
    outbox.flush()
    while len(received) < len(sent):
        received += unpacker.feed(theirs.recv(RECEIVE_SIZE))
    assert received == sent


def test_flushing_to_nobody_is_an_error(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    outbox = Outbox(ours)
    while outbox.is_empty:
        outbox.send(bytes(10_000))
    theirs.close()
    with pytest.raises(OSError, match="Broken pipe"):
        outbox.flush()


def test_a_step_tells_tokens_scores_and_ends() -> None:
    score = TokenScore(7, -0.5, 1)
    result = StepResult(
        started=[Started(request_id=3, num_cached_tokens=2)],
        prompt_scores=[],
        events=[
            TokenEvent(request_id=1, token_id=7, score=score),
            TokenEvent(request_id=2, token_id=8, finish_reason=FinishReason.LENGTH),
            TokenEvent(request_id=4, token_id=None, finish_reason=FinishReason.EXPIRED),
        ],
        stats=STATS,
    )
    early = TokenEvent(request_id=5, token_id=None, finish_reason=FinishReason.BAD_CONSTRAINT, detail="empty")
    step = pickle.loads(pickle.dumps(Step.of(result, 0.25, [9], earlier=[early])))
    assert (list(step.request_ids), list(step.token_ids)) == ([1, 2], [7, 8])
    assert step.scores == [(1, score)]
    assert step.ends == [
        (5, FinishReason.BAD_CONSTRAINT, "empty"),
        (2, FinishReason.LENGTH, ""),
        (4, FinishReason.EXPIRED, ""),
    ]
    assert (step.started, step.stats, step.seconds, step.prepared) == (result.started, STATS, 0.25, [9])


def test_a_step_of_many_tokens_is_a_small_message() -> None:
    """About four bytes a token: an object for each would take twenty, and fifty times as long."""
    events = [TokenEvent(request_id=100_000 + number, token_id=50_000) for number in range(256)]
    result = StepResult(started=[], prompt_scores=[], events=events, stats=STATS)
    assert len(packed(Step.of(result, 0.1))) < 256 * 10
