"""An engine without a model that speaks as a worker does: one message a step with one token for each stream.

`python -m benchmarks.fake_engine CASE` is its process, which `benchmarks.frontend` starts.
"""

import json
import queue
import random
import socket
import statistics
import sys
import threading
import time
from dataclasses import dataclass, field
from typing import Any, cast

from rhapsode_server.engine.engine import EngineStats, StepResult
from rhapsode_server.engine.events import Started, TokenEvent
from rhapsode_server.engine.request import EngineRequest, FinishReason
from rhapsode_server.workers import process
from rhapsode_server.workers.constraints import Constraining
from rhapsode_server.workers.messages import Ready, Step
from rhapsode_server.workers.wire import RECEIVE_SIZE, Outbox, Unpacker

VOCABULARY = 50_257
MESSAGES = 1000


@dataclass(slots=True)
class FakeEngine:
    """Once it has all streams, every step brings a token to each of them, at the rate that was asked for."""

    streams: int
    seconds: float
    """Of a step."""
    _requests: dict[int, EngineRequest] = field(default_factory=dict)
    _num_steps: int = 0
    _began: float = 0.0
    _tokens: list[int] = field(default_factory=lambda: natural_tokens(10_007))

    @property
    def has_work(self) -> bool:
        return len(self._requests) == self.streams

    def submit(self, request: EngineRequest) -> None:
        self._requests[request.request_id] = request

    def cancel(self, request_id: int) -> None: ...

    def step(self) -> StepResult:
        self._began = self._began or time.perf_counter()
        self._num_steps += 1
        time.sleep(max(0.0, self._began + self._num_steps * self.seconds - time.perf_counter()))
        number, ids = self._num_steps, list(self._requests)
        is_last = number == self._requests[ids[0]].max_new_tokens
        reason, tokens = FinishReason.LENGTH if is_last else None, self._tokens
        events = [
            TokenEvent(request_id=i, token_id=tokens[(97 * i + number) % len(tokens)], finish_reason=reason)
            for i in ids
        ]
        started = [Started(request_id=i, num_cached_tokens=0) for i in ids] if number == 1 else []
        if is_last:
            self._requests.clear()
        return StepResult(started=started, prompt_scores=[], events=events, stats=self._stats(len(ids)))

    def _stats(self, rows: int) -> EngineStats:
        return EngineStats(waiting=0, running=rows, blocks_used=0, blocks_total=0, batch_rows=rows, batch_tokens=rows)


def natural_tokens(count: int) -> list[int]:
    """As frequent as words in a text, by Zipf's law."""
    weights = [1 / (rank + 10) for rank in range(VOCABULARY - 256)]
    return random.Random(1).choices(range(256, VOCABULARY), weights, k=count)


def run_engine(case: dict[str, Any]) -> None:
    connection, inbox = socket.socket(fileno=case["socket"]), queue.SimpleQueue[Any]()
    outbox = Outbox(connection)
    threading.Thread(target=process._read, args=(connection, inbox), daemon=True).start()
    inbox.get()
    outbox.send(Ready(device="cpu", dtype="none", parameter_count=0, context_length=10**7))
    engine = cast(Any, FakeEngine(case["streams"], case["streams"] / case["offered"]))
    process.run(engine, Constraining(engine, cast(Any, None), notify=inbox.put), inbox, outbox)


def message_cost(streams: int) -> dict[str, float]:
    """Microseconds of a step's message in the engine's thread and in the front-end's, the median of many."""
    engine, unpacker = FakeEngine(streams, 0.0), Unpacker()
    for number in range(streams):
        engine.submit(EngineRequest(request_id=number, prompt_ids=(1,), max_new_tokens=MESSAGES + 2))
    engine.step()
    ours, theirs = socket.socketpair()
    outbox, sent, read = Outbox(ours), list[float](), list[float]()
    for _ in range(MESSAGES):
        result = engine.step()
        began = time.perf_counter()
        outbox.send(Step.of(result, 0.01))
        done = time.perf_counter()
        assert unpacker.feed(theirs.recv(RECEIVE_SIZE))
        sent.append(done - began)
        read.append(time.perf_counter() - done)
    for end in (ours, theirs):
        end.close()
    return {"streams": streams, "send_us": statistics.median(sent) * 1e6, "read_us": statistics.median(read) * 1e6}


if __name__ == "__main__":
    run_engine(json.loads(sys.argv[1]))
