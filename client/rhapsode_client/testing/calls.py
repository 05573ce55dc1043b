"""What the server was asked."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field

import grpc
from google.protobuf.message import Message


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call, of any method."""

    method: str
    """As the contract names it, for example `GenerateStream`."""
    request: Message
    metadata: Mapping[str, str | bytes]
    """What came with it, for example `authorization` and `x-request-id`."""
    timeout: float | None
    """Seconds that the caller gave it; None: no limit."""
    cancelled: threading.Event = field(default_factory=threading.Event, compare=False)
    """Set when the caller went away, or the time was over, before the answer was complete."""


class Caller:
    """Who asked, and whether they still listen."""

    def __init__(self, call: Call, context: grpc.ServicerContext, request_id: str) -> None:
        self.request_id = request_id
        self._call = call
        self._ended = threading.Event()
        self._answered = False
        if not context.add_callback(self._end):
            self._end()

    def wait(self, seconds: float) -> None:
        """Let time pass, as long as the caller listens."""
        if seconds > 0:
            self._ended.wait(min(seconds, threading.TIMEOUT_MAX))

    @property
    def is_open(self) -> bool:
        """Whether the caller still listens."""
        return not self._ended.is_set()

    def answered(self) -> None:
        """To be said before the last message goes out: that the caller leaves then is no cancellation."""
        self._answered = True

    def _end(self) -> None:
        if not self._answered:
            self._call.cancelled.set()
        self._ended.set()
