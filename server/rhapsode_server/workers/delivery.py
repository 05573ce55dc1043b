"""The tokens of an engine's steps on their way to the readers of its streams."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rhapsode_server.workers.messages import Step
from rhapsode_server.workers.pace import Pace
from rhapsode_server.workers.stream import TokenStream


@dataclass(slots=True, eq=False)
class Delivery:
    """Readers are woken in rounds: a message costs many times what a token in it does, so tokens gather for as long as
    messages keep the event loop busy. Only the first token of a stream, its scores and its end are told at once.

    Tokens of consecutive steps for the same requests are kept as columns, one of each step. A stream's tokens are its
    row: handing them out is hardly more work after a hundred steps than after one.
    """

    streams: Mapping[int, TokenStream]
    _request_ids: Sequence[int] = ()
    _columns: list[Sequence[int]] = field(default_factory=list)
    _unread: set[TokenStream] = field(default_factory=set)
    _pace: Pace = field(init=False)

    def __post_init__(self) -> None:
        self._pace = Pace(self._wake_readers)

    def add(self, step: Step) -> None:
        """What the step generated."""
        # A request's first token is in a step with other requests than the one before.
        is_as_before = step.request_ids == self._request_ids
        if not is_as_before:
            self.hand_out()
            self._request_ids = step.request_ids
        self._columns.append(step.token_ids)
        if step.scores or not is_as_before:
            self.hand_out()
        for request_id, score in step.scores:
            if stream := self.streams.get(request_id):
                stream.push_score(score)
        self._pace.ask()

    def hand_out(self) -> None:
        """Every stream has its tokens after that."""
        columns, self._columns = self._columns, []
        for request_id, token_ids in zip(self._request_ids, zip(*columns, strict=True), strict=bool(columns)):
            if stream := self.streams.get(request_id):
                stream.push(token_ids)
                self._unread.add(stream)

    def _wake_readers(self) -> None:
        self.hand_out()
        unread, self._unread = self._unread, set()
        for stream in unread:
            stream.wake()
