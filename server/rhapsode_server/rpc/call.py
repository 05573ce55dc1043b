"""What is known of a call while it runs: for its answer, its line in the log and the metrics."""

import re
import secrets
import time
from contextvars import ContextVar
from dataclasses import dataclass, field

from rhapsode_server.models.served import ServedVersion
from rhapsode_server.workers.stream import TokenStream

REQUEST_ID_KEY = "x-request-id"

_REQUEST_ID = re.compile(r"[ -~]{1,128}")


def is_request_id(text: str) -> bool:
    """Whether a caller may name a request so: 1 to 128 printable ASCII characters."""
    return bool(_REQUEST_ID.fullmatch(text))


@dataclass(slots=True, kw_only=True)
class Call:
    """A call of one of our services. Times are `time.monotonic()` seconds; `tokens` are those of a generation."""

    method: str
    request_id: str = field(default_factory=lambda: secrets.token_hex(16))
    arrived_at: float = field(default_factory=time.monotonic)
    model: str = ""
    version: int | None = None
    finish_reason: str = ""
    num_prompt_tokens: int = 0
    num_generated_tokens: int = 0
    tokens: TokenStream | None = None
    last_tokens_at: float | None = None

    def answered_by(self, version: ServedVersion) -> None:
        self.model, self.version = version.model, version.version

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        return ((REQUEST_ID_KEY, self.request_id),)

    @property
    def total(self) -> float:
        """Seconds since the arrival."""
        return time.monotonic() - self.arrived_at

    @property
    def queue(self) -> float | None:
        """Seconds from the arrival until the engine began with the prompt."""
        return self._until(self.tokens.started_at if self.tokens else None)

    @property
    def first_token(self) -> float | None:
        """Seconds from the arrival until the first token."""
        return self._until(self.tokens.first_token_at if self.tokens else None)

    def _until(self, moment: float | None) -> float | None:
        return None if moment is None else moment - self.arrived_at


# Set by the interceptor in the task of each call.
current_call: ContextVar[Call] = ContextVar("current_call")
