"""What is told of calls to whoever traces them; nothing where nobody does. OpenTelemetry itself is in `tracing`."""

from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Protocol

from rhapsode_server.config import ServerConfig
from rhapsode_server.errors import CannotStart

if TYPE_CHECKING:
    from rhapsode_server.rpc.call import Call
    from rhapsode_server.rpc.errors import Outcome

Metadata = Iterable[tuple[str, str | bytes]]


class Trace(Protocol):
    """Of one call, from its arrival."""

    @property
    def id(self) -> str:
        """Of the trace that it is a part of, 32 hexadecimal digits; empty where nothing is traced."""

    def note_completion(self, completion: "Call", outcome: "Outcome") -> None:
        """One of its many completions ended."""

    def end(self, call: "Call", outcome: "Outcome") -> None:
        """It ended."""


class Tracing(Protocol):
    """Traces the calls of a server. Nothing of it waits or fails."""

    def begin(self, call: "Call", path: str, metadata: Metadata) -> Trace:
        """A call of the method at `path` arrived."""


class NoTrace:
    """Of a call that nobody traces."""

    id = ""

    def note_completion(self, completion: "Call", outcome: "Outcome") -> None: ...

    def end(self, call: "Call", outcome: "Outcome") -> None: ...


NO_TRACE: Trace = NoTrace()


class NoTracing:
    """Nobody traces."""

    def begin(self, call: "Call", path: str, metadata: Metadata) -> Trace:
        return NO_TRACE


NO_TRACING: Tracing = NoTracing()


@contextmanager
def open_tracing(config: ServerConfig) -> Iterator[Tracing]:
    """Raises CannotStart where the extra `otel` is not installed."""
    if not config.otlp_endpoint:
        yield NO_TRACING
        return
    try:
        from rhapsode_server.rpc.tracing import OpenTelemetry
    except ModuleNotFoundError as error:
        raise CannotStart(
            f"--otlp-endpoint: needs OpenTelemetry ({error.name} is not installed); "
            "install the server with it: pip install 'rhapsode-server[otel]'"
        ) from None
    with closing(OpenTelemetry(config)) as tracing:
        yield tracing
