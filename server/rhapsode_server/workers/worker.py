"""A worker as the front-end sees it. Everything here runs on the event loop but for two threads that read and write."""

import asyncio
import itertools
import logging
import os
import queue
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

from rhapsode_server.engine.engine import EngineStats
from rhapsode_server.engine.options import EngineOptions
from rhapsode_server.engine.refusal import ModelRefused
from rhapsode_server.engine.request import EngineRequest
from rhapsode_server.errors import Unavailable, WorkerLost
from rhapsode_server.workers.admission import Admission
from rhapsode_server.workers.messages import (
    Cancel,
    Crashed,
    FromWorker,
    Ready,
    Refused,
    Start,
    Step,
    Submit,
    ToWorker,
    Warming,
)
from rhapsode_server.workers.stream import TokenStream

logger = logging.getLogger("rhapsode.workers")


@dataclass(slots=True, kw_only=True, eq=False)
class Worker:
    """Starts an engine process, hands it requests and delivers what it sends.

    `on_step` hears of every step, `on_warming` once when the weights are loaded, `on_lost` when a process that was
    ready ended without being told to.
    """

    options: EngineOptions
    max_queued_requests: int
    max_queued_tokens: int
    on_step: Callable[[EngineStats, float], None]
    on_warming: Callable[[], None]
    on_lost: Callable[[], None]
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    idle: asyncio.Event = field(default_factory=asyncio.Event)
    _admission: Admission = field(init=False)
    _streams: dict[int, TokenStream] = field(default_factory=dict)
    _request_ids: "itertools.count[int]" = field(default_factory=itertools.count)
    _groups: "itertools.count[int]" = field(default_factory=itertools.count)
    _ready: "asyncio.Future[Ready]" = field(init=False)
    _process: "subprocess.Popen[bytes]" = field(init=False)
    _outbox: "queue.SimpleQueue[ToWorker | None]" = field(default_factory=queue.SimpleQueue)
    _running: bool = False
    _stopping: bool = False
    _connection_ended: bool = False
    _num_holds: int = 0

    def __post_init__(self) -> None:
        self._admission = Admission(
            max_sequences=self.options.max_sequences,
            max_queued_requests=self.max_queued_requests,
            max_queued_tokens=self.max_queued_tokens,
        )

    @property
    def process_id(self) -> int:
        return self._process.pid

    async def start(self) -> Ready:
        """Raises ModelRefused when the engine refuses the model, WorkerLost when the process ends before that."""
        loop = asyncio.get_running_loop()
        self.idle.set()
        self._ready = loop.create_future()
        connection = self._spawn()
        threading.Thread(target=self._read, args=(loop, connection), daemon=True).start()
        threading.Thread(target=self._write, args=(connection,), daemon=True).start()
        self._outbox.put(Start(self.options))
        ready = await self._ready
        if self._connection_ended:
            raise WorkerLost("the engine process ended as soon as it was ready")
        self._running = True
        return ready

    def submit(self, *, prompt_ids: Sequence[int], **fields: Any) -> TokenStream:
        """Queue a request with the fields of EngineRequest but its id.

        Raises Overloaded when the queue is full, by requests or by tokens, or the request would begin after its
        deadline; Unavailable when the engine is not there.
        """
        if not self._running:
            raise Unavailable("the engine is not running")
        request = EngineRequest(request_id=next(self._request_ids), prompt_ids=tuple(prompt_ids), **fields)
        self._admission.admit(request)
        return self._open_stream(request)

    def new_group(self) -> int:
        """For requests of the same prompt, which is then computed once."""
        return next(self._groups)

    def predicted_wait(self, num_tokens: int, priority: int = 0) -> float:
        """Seconds until a request of so many tokens, prompt and completion, would begin, by the measured rate."""
        return self._admission.predicted_wait(num_tokens, priority)

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Meanwhile it is not idle: who holds it may still submit."""
        self._num_holds += 1
        self.idle.clear()
        try:
            yield
        finally:
            self._num_holds -= 1
            self._note_idle()

    async def stop(self) -> None:
        """End the process, which has nothing to save. Streams that are still open fail."""
        self._running = False
        self._stopping = True
        self._process.kill()
        await self.ended.wait()

    def _open_stream(self, request: EngineRequest) -> TokenStream:
        stream = TokenStream(on_close=lambda: self._cancel(request.request_id))
        self._streams[request.request_id] = stream
        self.idle.clear()
        self._outbox.put(Submit(request))
        return stream

    def _cancel(self, request_id: int) -> None:
        if request_id in self._streams:
            self._outbox.put(Cancel(request_id))
            self._forget(request_id)
            self._note_idle()

    def _forget(self, request_id: int) -> None:
        if stream := self._streams.pop(request_id, None):
            self._admission.end(request_id, stream.num_generated)

    def _spawn(self) -> Connection:
        ours, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-m", "rhapsode_server.workers.process", str(theirs.fileno())]
            environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
            # A session of its own: Ctrl-C in a terminal reaches the front-end alone, which drains before it stops us.
            self._process = subprocess.Popen(
                command, pass_fds=[theirs.fileno()], env=environment, stdin=subprocess.DEVNULL, start_new_session=True
            )
        return Connection(ours.detach())

    def _read(self, loop: asyncio.AbstractEventLoop, connection: Connection) -> None:
        try:
            while True:
                loop.call_soon_threadsafe(self._receive, connection.recv())
        except (EOFError, OSError):
            pass
        loop.call_soon_threadsafe(self._lose_streams)
        self._outbox.put(None)
        loop.call_soon_threadsafe(self._end, self._process.wait())

    def _write(self, connection: Connection) -> None:
        with connection:
            while (message := self._outbox.get()) is not None:
                try:
                    connection.send(message)
                except OSError:
                    # The reader sees the same end and says so.
                    continue

    def _receive(self, message: FromWorker) -> None:
        match message:
            case Step():
                self._deliver(message)
            case Warming():
                self.on_warming()
            case Ready() if not self._ready.done():
                self._ready.set_result(message)
            case Crashed(traceback):
                fields = {"process": self.process_id, "path": self.options.path, "traceback": traceback}
                logger.error("the engine failed", extra={"fields": fields})
            case Refused(reason=reason, detail=detail) if not self._ready.done():
                self._ready.set_exception(ModelRefused(reason, detail))

    def _deliver(self, step: Step) -> None:
        for request_id in step.prepared:
            self._admission.note_prepared(request_id)
        for started in step.result.started:
            if stream := self._streams.get(started.request_id):
                stream.mark_started(step.seconds, started.num_cached_tokens)
                self._admission.begin(started.request_id, started.num_cached_tokens)
        for prompt_scores in step.result.prompt_scores:
            if stream := self._streams.get(prompt_scores.request_id):
                stream.push_prompt_scores(prompt_scores.scores)
        for event in step.result.events:
            if stream := self._streams.get(event.request_id):
                stream.push(event.token_id, event.finish_reason, event.score, event.detail)
            if event.finish_reason is not None:
                self._forget(event.request_id)
        self._admission.note_step(step.result.stats)
        self._note_idle()
        self.on_step(step.result.stats, step.seconds)

    def _lose_streams(self) -> None:
        self._connection_ended = True
        lost = WorkerLost("the engine process ended while the request ran")
        for stream in self._streams.values():
            stream.fail(lost)
        self._streams.clear()
        self._admission.clear()
        self._note_idle()
        if not self._ready.done():
            self._ready.set_exception(lost)
        elif self._running:
            self._running = False
            self.on_lost()

    def _end(self, code: int) -> None:
        if code != 0 and not self._stopping:
            how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
            logger.error("engine process %d of %s %s", self.process_id, self.options.path, how)
        self.ended.set()

    def _note_idle(self) -> None:
        if not self._streams and not self._num_holds:
            self.idle.set()
