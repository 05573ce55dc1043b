"""Requests whose constraint is not ready yet, in a worker. Belongs to the engine's thread but for the notification."""

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

from rhapsode_server.engine.engine import Engine
from rhapsode_server.engine.events import TokenEvent
from rhapsode_server.engine.grammar import Grammars
from rhapsode_server.engine.refusal import BadConstraint
from rhapsode_server.engine.request import EngineRequest, FinishReason, Matcher


@dataclass(frozen=True, slots=True)
class Prepared:
    """The constraint of this request is ready, or known to be bad."""

    request: EngineRequest


@dataclass(slots=True)
class Constraining:
    """Hands requests to the engine once their constraint is ready. `notify` may be called from any thread."""

    engine: Engine
    grammars: Grammars
    notify: Callable[[Prepared], None]
    _matchers: dict[int, Future[Matcher]] = field(default_factory=dict)  # by request id
    _refused: list[TokenEvent] = field(default_factory=list)

    def begin(self, request: EngineRequest) -> None:
        """Prepare its constraint; `notify` tells when that is done."""
        assert request.constraint
        # A token that ends the completion may do so only where the text has its form.
        matcher = self.grammars.prepare(request.constraint, request.stop_token_ids)
        self._matchers[request.request_id] = matcher
        matcher.add_done_callback(lambda _: self.notify(Prepared(request)))

    def finish(self, request: EngineRequest) -> None:
        """Hand it to the engine, or refuse it, unless it was cancelled meanwhile."""
        matcher = self._matchers.pop(request.request_id, None)
        if matcher is None:
            return
        try:
            self.engine.submit(request, matcher.result())
        except BadConstraint as error:
            reason = FinishReason.BAD_CONSTRAINT
            event = TokenEvent(request_id=request.request_id, token_id=None, finish_reason=reason, detail=error.detail)
            self._refused.append(event)

    def cancel(self, request_id: int) -> None:
        """Forget it. Unknown ids are ignored."""
        if matcher := self._matchers.pop(request_id, None):
            matcher.cancel()

    def take_refused(self) -> list[TokenEvent]:
        """How those refused since the last call ended."""
        refused, self._refused = self._refused, []
        return refused
