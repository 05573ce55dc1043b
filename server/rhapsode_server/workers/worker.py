"""A worker as the front-end sees it. Everything here runs on the event loop."""

import asyncio
import itertools
import logging
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from rhapsode_server.engine.engine import EngineStats
from rhapsode_server.engine.options import EngineOptions
from rhapsode_server.engine.refusal import LOAD_TIMEOUT, ModelRefused
from rhapsode_server.engine.request import EngineRequest
from rhapsode_server.engine.usage import Usage
from rhapsode_server.errors import Unavailable, WorkerLost
from rhapsode_server.logs import current_request_id
from rhapsode_server.workers.admission import Admission
from rhapsode_server.workers.channel import Channel
from rhapsode_server.workers.delivery import Delivery
from rhapsode_server.workers.exits import ExitReason, exit_reason
from rhapsode_server.workers.launcher import Launcher
from rhapsode_server.workers.messages import (
    Cancel,
    Crashed,
    FromWorker,
    Ping,
    Pong,
    Ready,
    Refused,
    Stage,
    Start,
    Step,
    Submit,
    ToWorker,
)
from rhapsode_server.workers.stream import TokenStream
from rhapsode_server.workers.watchdog import Heartbeat, sleep_while_running

# For a killed process to end; one that hangs in a driver may never.
_KILL_SECONDS = 10.0

# So many requests that were lost are named in the log.
_MOST_LOGGED = 64

# Ends that whoever started the worker hears of with a reason.
_EXPLAINED = (ExitReason.STOPPED, ExitReason.REFUSED, ExitReason.LOAD_TIMEOUT)

logger = logging.getLogger("rhapsode.workers")


@dataclass(slots=True, kw_only=True, eq=False)
class Worker:
    """Gets an engine process, hands it requests, delivers what it sends, and ends it when it hangs.

    `load_timeout` is for the time until it is ready, `step_timeout` for a sign of life from then on; seconds.
    `on_step` hears of every step, `on_stage` of the stages of loading, `on_lost` when a process that was ready ended,
    or hangs, without having been told to end; `on_exit` once of every process; `on_usage` of what it takes of the
    machine, when it is ready and then at least three times in a `step_timeout`.
    """

    options: EngineOptions
    max_queued_requests: int
    max_queued_tokens: int
    launcher: Launcher
    load_timeout: float
    step_timeout: float
    on_step: Callable[[EngineStats, float], None]
    on_stage: Callable[[str], None]
    on_lost: Callable[[ExitReason], None]
    on_exit: Callable[[ExitReason], None]
    on_usage: Callable[[Usage], None] = lambda usage: None
    was_standby: bool = field(default=False, init=False)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    idle: asyncio.Event = field(default_factory=asyncio.Event)
    _admission: Admission = field(init=False)
    _heartbeat: Heartbeat = field(init=False)
    _streams: dict[int, TokenStream] = field(default_factory=dict)
    _delivery: Delivery = field(init=False)
    _request_ids: "itertools.count[int]" = field(default_factory=itertools.count)
    _ready: "asyncio.Future[Ready]" = field(init=False)
    _channel: Channel | None = None
    _watch: "asyncio.Task[None] | None" = None
    _exit_reason: ExitReason | None = None
    _is_up: bool = False
    _is_closed: bool = False
    _num_holds: int = 0

    def __post_init__(self) -> None:
        self._admission = Admission(
            max_sequences=self.options.max_sequences,
            max_queued_requests=self.max_queued_requests,
            max_queued_tokens=self.max_queued_tokens,
        )
        self._delivery = Delivery(self._streams)
        self._heartbeat = Heartbeat(timeout=self.step_timeout, ping=lambda: self._send(Ping()))

    @property
    def process_id(self) -> int:
        """0 before it was started."""
        return self._channel.process_id if self._channel else 0

    @property
    def num_waiting(self) -> int:
        """Requests that the engine has not begun with."""
        return self._admission.num_waiting

    @property
    def num_running(self) -> int:
        return self._admission.num_running

    @property
    def load(self) -> int:
        """Tokens asked for by all requests that wait or run, prompts and completions."""
        return self._admission.num_tokens

    async def start(self) -> Ready:
        """Raises ModelRefused when the engine refuses the model, or is not ready in time; WorkerLost when the process
        ends before that."""
        self.idle.set()
        self._ready = asyncio.get_running_loop().create_future()
        launched = self.launcher.launch()
        self.was_standby = launched.is_standby
        self._channel = Channel(launched=launched, on_message=self._receive, on_closed=self._close, on_exit=self._end)
        self._channel.open()
        self._send(Start(self.options, launched.gives_way))
        self._watch_by(self._limit_loading())
        ready = await self._ready
        if self._is_closed:
            raise WorkerLost("the engine process ended as soon as it was ready")
        self._set_up(True)
        self._watch_by(self._end_when_silent())
        return ready

    def submit(self, *, prompt_ids: Sequence[int], **fields: Any) -> TokenStream:
        """Queue a request with the fields of EngineRequest but its id.

        Raises Overloaded when the queue is full, by requests or by tokens, or the request would begin after its
        deadline; Unavailable when the engine is not there.
        """
        if not self._is_up or self._is_closed:
            raise Unavailable("the engine is not running")
        request = EngineRequest(
            request_id=next(self._request_ids), prompt_ids=tuple(prompt_ids), wire_id=current_request_id(), **fields
        )
        self._admission.admit(request)
        return self._open_stream(request)

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
        self._set_up(False)
        if self._channel is None:
            return
        self._kill(ExitReason.STOPPED)
        try:
            await asyncio.wait_for(self.ended.wait(), _KILL_SECONDS)
        except TimeoutError:
            logger.error("engine process %d was killed and does not end", self.process_id)

    def _open_stream(self, request: EngineRequest) -> TokenStream:
        stream = TokenStream(on_close=lambda: self._cancel(request.request_id), request_id=request.wire_id)
        self._streams[request.request_id] = stream
        self.idle.clear()
        self._send(Submit(request))
        return stream

    def _cancel(self, request_id: int) -> None:
        if request_id in self._streams:
            self._send(Cancel(request_id))
            self._forget(request_id)
            self._note_idle()

    def _forget(self, request_id: int) -> None:
        self._delivery.hand_out()
        if stream := self._streams.pop(request_id, None):
            self._admission.end(request_id, stream.num_generated)

    def _send(self, message: ToWorker) -> None:
        assert self._channel
        self._channel.send(message)

    def _receive(self, message: FromWorker) -> None:
        self._heartbeat.hear()
        match message:
            case Step():
                self._deliver(message)
            case Pong(usage):
                self.on_usage(usage)
            case Stage(name):
                self.on_stage(name)
            case Ready() if not self._ready.done():
                self._ready.set_result(message)
            case Crashed(traceback, reason):
                self._note_reason(reason)
                fields = {"process": self.process_id, "path": self.options.path, "traceback": traceback}
                logger.error("the engine failed", extra={"fields": fields})
            case Refused(reason=reason, detail=detail) if not self._ready.done():
                self._note_reason(ExitReason.REFUSED)
                self._ready.set_exception(ModelRefused(reason, detail))

    def _deliver(self, step: Step) -> None:
        for request_id in step.prepared:
            self._admission.note_prepared(request_id)
        for started in step.started:
            if stream := self._streams.get(started.request_id):
                stream.mark_started(step.seconds, started.num_cached_tokens)
                self._admission.begin(started.request_id, started.num_cached_tokens)
        for prompt_scores in step.prompt_scores:
            if stream := self._streams.get(prompt_scores.request_id):
                stream.push_prompt_scores(prompt_scores.scores)
        if step.request_ids:
            self._delivery.add(step)
        for request_id, reason, detail in step.ends:
            if stream := self._streams.get(request_id):
                stream.end(reason, detail)
                self._forget(request_id)
        self._admission.note_step(step.stats)
        self._note_idle()
        self.on_step(step.stats, step.seconds)

    def _watch_by(self, watch: Coroutine[None, None, None]) -> None:
        if self._watch:
            self._watch.cancel()
        self._watch = asyncio.get_running_loop().create_task(watch)

    async def _limit_loading(self) -> None:
        await sleep_while_running(self.load_timeout)
        if not self._ready.done():
            self._kill(ExitReason.LOAD_TIMEOUT)
            detail = f"it was not ready within {self.load_timeout:g} s; --load-timeout allows more"
            self._ready.set_exception(ModelRefused(LOAD_TIMEOUT, detail))

    async def _end_when_silent(self) -> None:
        await self._heartbeat.silence()
        self._kill(ExitReason.HUNG)
        # At once: one that hangs in a driver outlives its end.
        self._close()
        self._tell_lost()

    def _kill(self, reason: ExitReason) -> None:
        assert self._channel
        self._note_reason(reason)
        self._channel.kill()

    def _note_reason(self, reason: ExitReason) -> None:
        """The first is the cause."""
        self._exit_reason = self._exit_reason or reason

    def _close(self) -> None:
        self._is_closed = True
        self._delivery.hand_out()
        self._log_lost_requests()
        lost = WorkerLost("the engine process ended while the request ran")
        for stream in self._streams.values():
            stream.fail(lost)
        self._streams.clear()
        self._admission.clear()
        self._note_idle()
        if not self._ready.done():
            self._ready.set_exception(lost)

    def _log_lost_requests(self) -> None:
        """One of them may have ended the process."""
        if self._streams:
            request_ids = [stream.request_id for stream in itertools.islice(self._streams.values(), _MOST_LOGGED)]
            fields = {"process": self.process_id, "path": self.options.path, "request_ids": request_ids}
            logger.warning("%d requests end with their process", len(self._streams), extra={"fields": fields})

    def _end(self, code: int) -> None:
        if self._watch:
            self._watch.cancel()
        self._note_reason(exit_reason(code))
        assert self._exit_reason
        if code != 0 and self._exit_reason not in _EXPLAINED:
            how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
            logger.error("engine process %d of %s %s: %s", self.process_id, self.options.path, how, self._exit_reason)
        self._tell_lost()
        self.on_exit(self._exit_reason)
        self.ended.set()

    def _tell_lost(self) -> None:
        if self._is_up:
            self._set_up(False)
            assert self._exit_reason
            self.on_lost(self._exit_reason)

    def _set_up(self, is_up: bool) -> None:
        self.launcher.num_serving += is_up - self._is_up
        self._is_up = is_up

    def _note_idle(self) -> None:
        if not self._streams and not self._num_holds:
            self.idle.set()
