"""What a caller asks of the engine, and the state of it while it runs. Imports no torch."""

from dataclasses import dataclass, field
from enum import Enum

# The engine's last word on a request whose logits were not finite, in place of a token id.
NOT_FINITE = -1


class FinishReason(Enum):
    """Why a sequence ended."""

    LENGTH = "length"
    STOP_TOKEN = "stop_token"
    CANCELLED = "cancelled"
    NOT_FINITE = "not_finite"


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParameters:
    """How the next token is chosen. Temperature 0 is greedy; top_k 0 and top_p 1 are off; seed has 64 bits."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineRequest:
    """A completion to compute: `request_id` is unique in the engine, `stop_token_ids` include the end token."""

    request_id: int
    prompt_ids: tuple[int, ...]
    max_new_tokens: int
    sampling: SamplingParameters = SamplingParameters()
    stop_token_ids: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        assert self.prompt_ids, "the caller supplies at least one prompt token"
        assert self.max_new_tokens > 0, "a request that generates nothing never reaches the engine"

    @property
    def num_reserved_tokens(self) -> int:
        """KV positions the request may ever need; admission reserves them all, so it is never preempted."""
        return len(self.prompt_ids) + self.max_new_tokens


@dataclass(slots=True, kw_only=True, eq=False)
class Sequence:
    """A request that runs.

    [0 .................. num_scheduled)  KV written, or being written by a step in flight
    [0 ........... len(token_ids))        ids known here: the prompt and the sampled tokens
                  [len(token_ids) ... length)   sampled by steps in flight, known on the device only
    """

    request: EngineRequest
    slot: int
    blocks: list[int]
    token_ids: list[int] = field(default_factory=list)
    num_scheduled: int = 0
    num_pending_tokens: int = 0
    num_rows_in_flight: int = 0
    finish_reason: FinishReason | None = None

    def __post_init__(self) -> None:
        self.token_ids = list(self.request.prompt_ids)

    @property
    def length(self) -> int:
        """Tokens so far, those on their way from the device included."""
        return len(self.token_ids) + self.num_pending_tokens

    @property
    def num_unscheduled(self) -> int:
        """Tokens whose KV no launched step writes: the rest of the prompt, or 1 when it is time to decode."""
        return self.length - self.num_scheduled

    @property
    def is_prefilling(self) -> bool:
        return self.num_scheduled < len(self.request.prompt_ids)

    @property
    def wants_step(self) -> bool:
        """False once the last token it may generate is on its way."""
        generated = self.length - len(self.request.prompt_ids)
        return self.finish_reason is None and generated < self.request.max_new_tokens
