"""StoppingCriteria: when a completion ends."""

from collections.abc import Iterable
from dataclasses import dataclass

from google.protobuf.duration_pb2 import Duration
from rhapsode.v1.generation_pb2 import StoppingCriteria as Message

from rhapsode_server.errors import FieldViolation
from rhapsode_server.models.limits import Limits
from rhapsode_server.rpc.requests import fields
from rhapsode_server.rpc.requests.fields import Violations

# Those of google.protobuf.Duration: about 10,000 years.
_MAX_SECONDS = 315_576_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopping:
    """`eos_token_ids` is empty when they do not end it. `time_limit` is in seconds from the arrival of the call."""

    max_new_tokens: int
    min_new_tokens: int
    stop_strings: tuple[str, ...]
    stop_token_ids: frozenset[int]
    eos_token_ids: frozenset[int]
    include_stop: bool
    time_limit: float | None

    @property
    def all_token_ids(self) -> frozenset[int]:
        return self.stop_token_ids | self.eos_token_ids


def violations(message: Message, limits: Limits, default_max_new_tokens: int) -> Violations:
    most = max_new_tokens(message, default_max_new_tokens)
    if message.min_new_tokens > most:
        description = f"is {message.min_new_tokens}, above max_new_tokens, {most}"
        yield FieldViolation("stopping.min_new_tokens", description)
    strings = message.stop_strings
    yield from fields.texts(
        strings, "stopping.stop_strings", limits.max_stop_strings, limits.max_stop_string_characters
    )
    yield from fields.token_ids(
        message.stop_token_ids, "stopping.stop_token_ids", limits.max_stop_token_ids, limits.vocabulary_size
    )
    if message.HasField("time_limit") and not _is_positive(message.time_limit):
        yield FieldViolation("stopping.time_limit", f"must be above 0 and at most {_MAX_SECONDS} s")


def stopping(message: Message, eos_token_ids: Iterable[int], default_max_new_tokens: int) -> Stopping:
    limit = message.time_limit if message.HasField("time_limit") else None
    return Stopping(
        max_new_tokens=max_new_tokens(message, default_max_new_tokens),
        min_new_tokens=message.min_new_tokens,
        stop_strings=tuple(message.stop_strings),
        stop_token_ids=frozenset(message.stop_token_ids),
        eos_token_ids=frozenset() if message.ignore_eos else frozenset(eos_token_ids),
        include_stop=message.include_stop,
        time_limit=None if limit is None else limit.seconds + limit.nanos / 1e9,
    )


def max_new_tokens(message: Message, default: int) -> int:
    return message.max_new_tokens if message.HasField("max_new_tokens") else default


def _is_positive(duration: Duration) -> bool:
    seconds, nanos = duration.seconds, duration.nanos
    return 0 <= seconds <= _MAX_SECONDS and 0 <= nanos < 10**9 and (seconds > 0 or nanos > 0)
