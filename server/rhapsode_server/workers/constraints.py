"""Requests whose constraint is not ready yet, in a worker. Belongs to the engine's thread but for the notification."""

import logging
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

from rhapsode_server.engine.engine import Engine
from rhapsode_server.engine.events import TokenEvent
from rhapsode_server.engine.grammar import Grammars
from rhapsode_server.engine.refusal import BadConstraint, ConstraintsBusy
from rhapsode_server.engine.request import EngineRequest, FinishReason, Matcher

logger = logging.getLogger("rhapsode.workers")


@dataclass(frozen=True, slots=True)
class Prepared:
    """The constraint of this request is ready, or known to be bad."""

    request: EngineRequest


@dataclass(slots=True)
class ConstraintNews:
    """Requests that went on to the engine, and how others ended before."""

    prepared: list[int] = field(default_factory=list)
    events: list[TokenEvent] = field(default_factory=list)


@dataclass(slots=True)
class Constraining:
    """Hands requests to the engine once their constraint is ready. `notify` may be called from any thread."""

    engine: Engine
    grammars: Grammars
    notify: Callable[[Prepared], None]
    clock: Callable[[], float] = time.monotonic
    _preparing: dict[int, tuple[EngineRequest, Future[Matcher]]] = field(default_factory=dict)  # by request id
    _news: ConstraintNews = field(default_factory=ConstraintNews)

    @property
    def seconds_left(self) -> float | None:
        """Until time ends the first of them."""
        ends = (request.ends_no_later_than for request, _ in self._preparing.values())
        first = min((when for when in ends if when is not None), default=None)
        return None if first is None else max(0.0, first - self.clock())

    def begin(self, request: EngineRequest) -> None:
        """Prepare its constraint; `notify` tells when that is done."""
        assert request.constraint
        # A token that ends the completion may do so only where the text has its form.
        matcher = self.grammars.prepare(request.constraint, request.stop_token_ids)
        self._preparing[request.request_id] = request, matcher
        matcher.add_done_callback(lambda _: self.notify(Prepared(request)))

    def finish(self, request: EngineRequest) -> None:
        """Hand it to the engine, or refuse it, unless it was cancelled meanwhile."""
        _, matcher = self._preparing.pop(request.request_id, (None, None))
        if matcher is None:
            return
        try:
            self.engine.submit(request, matcher.result())
            self._news.prepared.append(request.request_id)
        except BadConstraint as error:
            if error.bug:
                fields = {"request_id": request.wire_id}
                logger.error("a constraint could not be prepared", exc_info=error.bug, extra={"fields": fields})
            self._end(request, FinishReason.BAD_CONSTRAINT, error.detail)
        except ConstraintsBusy as error:
            self._end(request, FinishReason.CONSTRAINT_BUSY, str(error))

    def cancel(self, request_id: int) -> None:
        """Forget it. Unknown ids are ignored."""
        _, matcher = self._preparing.pop(request_id, (None, None))
        if matcher is not None:
            matcher.cancel()

    def end_what_is_due(self) -> None:
        """End those whose time is over."""
        now = self.clock()
        for request, _ in list(self._preparing.values()):
            if reason := request.ended_by(now):
                self.cancel(request.request_id)
                self._end(request, reason)

    def take_news(self) -> ConstraintNews:
        """Since the last call."""
        news, self._news = self._news, ConstraintNews()
        return news

    def _end(self, request: EngineRequest, reason: FinishReason, detail: str = "") -> None:
        event = TokenEvent(request_id=request.request_id, token_id=None, finish_reason=reason, detail=detail)
        self._news.events.append(event)
