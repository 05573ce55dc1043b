"""What a caller asks of the engine, and the state of it while it runs. Imports no torch."""

from collections.abc import Collection, Hashable
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

# The engine's last word on a request whose logits were not finite, in place of a token id.
NOT_FINITE = -1
# In place of a token id where the logits were, but the parameters leave no token to draw.
NOTHING_LEFT = -2


class FinishReason(Enum):
    """Why a sequence ended."""

    LENGTH = "length"
    STOP_TOKEN = "stop_token"
    CONSTRAINT = "constraint"  # complete, and nothing may follow
    TIME_LIMIT = "time_limit"
    EXPIRED = "expired"  # its deadline passed
    CANCELLED = "cancelled"
    NOT_FINITE = "not_finite"
    NOTHING_LEFT = "nothing_left"
    BAD_CONSTRAINT = "bad_constraint"
    CONSTRAINT_BUSY = "constraint_busy"  # too many others wait to be prepared


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParameters:
    """How the next token is chosen; the defaults are greedy and otherwise off. `seed` has 64 bits.

    They apply in the order logit_bias, repetition_penalty, presence_penalty and frequency_penalty, banned_sequences,
    allowed_token_ids (empty: all), temperature, top_k, top_p, min_p, typical_p. `allowed_mask` holds the allowed ids as
    bits, which every step asks for: bit i % 8 of byte i // 8 is that of token i.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int = 0
    logit_bias: tuple[tuple[int, float], ...] = ()
    allowed_token_ids: tuple[int, ...] = ()
    banned_sequences: tuple[tuple[int, ...], ...] = ()
    allowed_mask: bytes | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "allowed_mask", _mask(self.allowed_token_ids) if self.allowed_token_ids else None)

    @property
    def needs_history(self) -> bool:
        """Whether the next token depends on the tokens before it other than through the model."""
        penalties = self.repetition_penalty != 1 or self.presence_penalty != 0 or self.frequency_penalty != 0
        return penalties or any(len(sequence) > 1 for sequence in self.banned_sequences)


def _mask(token_ids: Collection[int]) -> bytes:
    digits = bytearray(b"0") * (max(token_ids) + 1)
    for token_id in token_ids:
        digits[~token_id] = ord("1")
    return int(digits, 2).to_bytes(-(-len(digits) // 8), "little")


@dataclass(frozen=True, slots=True)
class Constraint:
    """The form a completion must have: `kind` is json_schema, regex, choices (source: a JSON list) or grammar."""

    kind: str
    source: str


@dataclass(frozen=True, slots=True)
class TokenScore:
    """How likely the model found a token: natural log-probability by its bare logits, rank from 1, and the likeliest
    tokens of the place with theirs, likeliest first."""

    token_id: int
    logprob: float
    rank: int
    candidates: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineRequest:
    """A completion to compute: `request_id` is unique in the engine, `stop_token_ids` include the end token.

    `top_logprobs` asks for a TokenScore of each generated token with so many candidates, `prompt_top_logprobs` for one
    of each prompt token from index `first_scored` on. `deadline` (the request is given up) and `ends_at` (it ends with
    what there is) are `time.monotonic()` seconds, which the processes of a machine share. Requests of one `group` have
    the same prompt. Of waiting requests the highest `priority` goes first. `wire_id` is its name for callers and for
    the log.
    """

    request_id: int
    prompt_ids: tuple[int, ...]
    max_new_tokens: int
    min_new_tokens: int = 0
    sampling: SamplingParameters = SamplingParameters()
    stop_token_ids: frozenset[int] = frozenset()
    constraint: Constraint | None = None
    top_logprobs: int | None = None
    prompt_top_logprobs: int | None = None
    first_scored: int = 1
    priority: int = 0
    group: int | None = None
    deadline: float | None = None
    ends_at: float | None = None
    wire_id: str = ""

    def __post_init__(self) -> None:
        assert self.prompt_ids, "the caller supplies at least one prompt token"
        scores = self.prompt_top_logprobs is not None
        assert self.max_new_tokens > 0 or scores, "a request that computes nothing never reaches the engine"

    @property
    def num_reserved_tokens(self) -> int:
        """KV positions the request may ever need; admission reserves them all, so it is never preempted."""
        return len(self.prompt_ids) + self.max_new_tokens

    @property
    def ends_no_later_than(self) -> float | None:
        """When time ends it, whichever limit comes first."""
        return min((when for when in (self.deadline, self.ends_at) if when is not None), default=None)

    @property
    def num_shareable_tokens(self) -> int:
        """Tokens of the prompt that may be taken over from another request: not the last, whose logits are needed, nor
        any that predicts a token to score."""
        most = len(self.prompt_ids) - 1
        return most if self.prompt_top_logprobs is None else max(0, min(most, self.first_scored - 1))

    def ended_by(self, now: float) -> FinishReason | None:
        """What time has done to it."""
        if self.deadline is not None and self.deadline <= now:
            return FinishReason.EXPIRED
        return FinishReason.TIME_LIMIT if self.ends_at is not None and self.ends_at <= now else None


class Matcher(Protocol):
    """Follows a completion through its constraint. Whatever it raises ends its own request."""

    def allowed_mask(self) -> bytes:
        """What may follow, as `Draw.allowed_mask`."""

    def accept(self, token_id: int) -> None:
        """Go on by a token."""

    @property
    def is_complete(self) -> bool:
        """Whether nothing but the end may follow."""


@dataclass(slots=True, kw_only=True, eq=False)
class Sequence:
    """A request that runs.

    [0 .................. num_scheduled)  KV written, or being written by a step in flight
    [0 ........... len(token_ids))        ids known here: the prompt and the sampled tokens
                  [len(token_ids) ... length)   sampled, but known on the device only or unknown to the matcher

    `allowed_mask` is what the matcher lets follow `token_ids`; `needs_host` says whether the next token cannot be drawn
    before the host has seen the last one. `beginnings` are those by which others find its KV: the number of tokens of
    each, ascending, and its key. `origin` is the one whose KV it began with.
    """

    request: EngineRequest
    slot: int
    blocks: list[int]
    matcher: Matcher | None = None
    allowed_mask: bytes | None = None
    token_ids: list[int] = field(default_factory=list)
    num_scheduled: int = 0
    num_pending_tokens: int = 0
    num_rows_in_flight: int = 0
    finish_reason: FinishReason | None = None
    beginnings: list[tuple[int, Hashable]] = field(default_factory=list)
    origin: "Sequence | None" = None
    # What every step asks for, worked out once.
    num_prompt_tokens: int = field(init=False)
    num_reserved_tokens: int = field(init=False)
    suppressed_ids: tuple[int, ...] = field(init=False)
    needs_history: bool = field(init=False)
    needs_host: bool = field(init=False)

    def __post_init__(self) -> None:
        self.token_ids = list(self.request.prompt_ids)
        self.num_prompt_tokens = len(self.token_ids)
        self.num_reserved_tokens = self.request.num_reserved_tokens
        self.suppressed_ids = tuple(self.request.stop_token_ids) if self.request.min_new_tokens else ()
        self.needs_history = self.request.sampling.needs_history
        self.needs_host = self.needs_history or self.matcher is not None

    @property
    def length(self) -> int:
        """Tokens so far, those that are pending included."""
        return len(self.token_ids) + self.num_pending_tokens

    @property
    def has_begun(self) -> bool:
        return self.num_scheduled > 0

    @property
    def is_prefilling(self) -> bool:
        return self.num_scheduled < self.num_prompt_tokens

    @property
    def wants_decode(self) -> bool:
        """Of one whose prompt is computed: false once the last token it may generate is on its way, and while the host
        must see one first."""
        if self.needs_host and self.num_pending_tokens:
            return False
        return self.length < self.num_reserved_tokens
