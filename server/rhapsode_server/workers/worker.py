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

from rhapsode_server.engine.engine import EngineStats
from rhapsode_server.engine.options import EngineOptions
from rhapsode_server.engine.refusal import ModelRefused
from rhapsode_server.engine.request import EngineRequest, SamplingParameters
from rhapsode_server.errors import Overloaded, Unavailable, WorkerLost
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
    on_step: Callable[[EngineStats, float], None]
    on_warming: Callable[[], None]
    on_lost: Callable[[], None]
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    idle: asyncio.Event = field(default_factory=asyncio.Event)
    _streams: dict[int, TokenStream] = field(default_factory=dict)
    _request_ids: "itertools.count[int]" = field(default_factory=itertools.count)
    _ready: "asyncio.Future[Ready]" = field(init=False)
    _process: "subprocess.Popen[bytes]" = field(init=False)
    _outbox: "queue.SimpleQueue[ToWorker | None]" = field(default_factory=queue.SimpleQueue)
    _running: bool = False
    _stopping: bool = False
    _connection_ended: bool = False
    _num_holds: int = 0

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

    def submit(
        self,
        *,
        prompt_ids: Sequence[int],
        max_new_tokens: int,
        sampling: SamplingParameters,
        stop_token_ids: frozenset[int],
    ) -> TokenStream:
        """Queue a request. Raises Overloaded when the queue is full, Unavailable when the engine is not there."""
        if not self._running:
            raise Unavailable("the engine is not running")
        if len(self._streams) >= self.options.max_sequences + self.max_queued_requests:
            raise Overloaded(f"{self.max_queued_requests} requests wait already; try again later")
        request = EngineRequest(
            request_id=next(self._request_ids),
            prompt_ids=tuple(prompt_ids),
            max_new_tokens=max_new_tokens,
            sampling=sampling,
            stop_token_ids=stop_token_ids,
        )
        return self._open_stream(request)

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
        if self._streams.pop(request_id, None) is not None:
            self._outbox.put(Cancel(request_id))
            self._note_idle()

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
        for request_id in step.result.started:
            if stream := self._streams.get(request_id):
                stream.mark_started(step.seconds)
        for event in step.result.events:
            if stream := self._streams.get(event.request_id):
                stream.push(event.token_id, event.finish_reason)
            if event.finish_reason is not None:
                self._streams.pop(event.request_id, None)
        self._note_idle()
        self.on_step(step.result.stats, step.seconds)

    def _lose_streams(self) -> None:
        self._connection_ended = True
        lost = WorkerLost("the engine process ended while the request ran")
        for stream in self._streams.values():
            stream.fail(lost)
        self._streams.clear()
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
