"""What calls return: plain, frozen values. Times are in seconds."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from rhapsode_client.errors import RhapsodeError


class FinishReason(StrEnum):
    """Why a completion ended."""

    LENGTH = "length"
    EOS = "eos"
    STOP_STRING = "stop_string"
    STOP_TOKEN = "stop_token"
    CONTEXT_FULL = "context_full"
    TIME_LIMIT = "time_limit"
    UNKNOWN = "unknown"
    """A reason that this client does not know: the server is newer."""


class VersionState(StrEnum):
    """Where a version stands on the server."""

    DISCOVERED = "discovered"
    VERIFYING = "verifying"
    LOADING = "loading"
    WARMING = "warming"
    CANARY = "canary"
    READY = "ready"
    SERVING = "serving"
    DRAINING = "draining"
    UNLOADED = "unloaded"
    QUARANTINED = "quarantined"
    UNKNOWN = "unknown"
    """A state that this client does not know: the server is newer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens counted."""

    prompt_tokens: int
    cached_tokens: int
    """Tokens of the prompt that came from the prefix cache."""
    completion_tokens: int
    """Tokens generated, the stop token included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """Seconds from the arrival of the call at the server."""

    queue: float
    """Until the engine began with the prompt."""
    first_token: float | None
    """Until the first token; None when none was generated."""
    total: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """The sampling parameters used, with every default filled in."""

    temperature: float | None
    top_k: int | None
    top_p: float | None
    seed: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """The first event of a stream: who answers."""

    request_id: str
    model: str
    version: int
    seed: int
    usage: Usage
    sampling: Sampling


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A token that might have stood in a place."""

    token_id: int
    logprob: float
    """Natural."""
    text: bytes
    """What it adds to a text, in UTF-8: perhaps part of a character."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLogprob:
    """How likely the model found a token in its place: at temperature 1, before any sampling parameter."""

    token_id: int
    logprob: float | None
    """Natural; None for the first token of a prompt, which nothing predicts."""
    rank: int
    """How many tokens are at least as likely: 1 is the likeliest. 0 where `logprob` is None."""
    text: bytes
    """What it adds to a text, in UTF-8: perhaps part of a character."""
    candidates: tuple[Candidate, ...] = ()
    """The likeliest tokens of the place, likeliest first, if asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """Newly produced text; `str(delta)` is its text."""

    text: str
    token_ids: tuple[int, ...] = ()
    """The ids generated since the last delta, if asked for. Text may trail them."""
    logprobs: tuple[TokenLogprob, ...] = ()
    """Those of the tokens generated since the last delta, if asked for."""
    prompt_logprobs: tuple[TokenLogprob, ...] = ()
    """Those of the prompt, if asked for: in the first deltas."""

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """A whole completion; `str(completion)` is its text."""

    text: str
    """Without the prompt, cut before the stop."""
    finish_reason: FinishReason
    matched_stop: str | int | None
    """The stop string, or the id of the stop or end-of-sequence token, that ended it."""
    model: str
    version: int
    seed: int
    """Send it again for the same tokens."""
    token_ids: tuple[int, ...]
    """The generated ids, if asked for, the stop token included."""
    usage: Usage
    timings: Timings
    sampling: Sampling
    request_id: str
    logprobs: tuple[TokenLogprob, ...] = ()
    """Of the generated tokens, if asked for, the stop token included."""
    prompt_logprobs: tuple[TokenLogprob, ...] = ()
    """Of the prompt's tokens, if asked for."""

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchResult:
    """One completion of a batch, or why there is none."""

    item: int
    """The index of the item, from 0."""
    completion: int
    """The index of the completion within its item, from 0."""
    result: Completion | RhapsodeError


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """How likely the model finds a text."""

    tokens: tuple[TokenLogprob, ...]
    """In order; the first has no log-probability."""
    sum_logprob: float
    """Natural."""
    perplexity: float | None
    """Of the tokens that have a log-probability; None if none has."""
    model: str
    version: int
    timings: Timings
    request_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """One token of a text."""

    id: int
    piece: str
    """As the vocabulary spells it."""
    start: int
    """Where it begins in the text's UTF-8 bytes."""
    end: int
    """Where it ends in the text's UTF-8 bytes, exclusive."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a request may ask of a version."""

    context_length: int
    """Prompt and completion together, in tokens."""
    vocabulary_size: int
    max_sequences: int
    """Requests that run at the same time; the others queue."""
    max_queued_requests: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What was measured on held-out text when a version was published; None for what was not."""

    bits_per_byte: float | None
    perplexity: float | None
    """Per token."""
    accepted: bool | None
    """Whether the gate accepted it; None: it was published without one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelVersion:
    """One version of a model, as the server sees it. What loading tells is empty, 0 or None before."""

    version: int
    state: VersionState
    reason: str
    """Why it is quarantined; empty otherwise."""
    dtype: str
    device: str
    parameter_count: int
    limits: Limits | None
    evaluation: Evaluation | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model, the versions that the server knows and what each alias stands for."""

    name: str
    aliases: Mapping[str, int]
    versions: tuple[ModelVersion, ...]
    traffic: Mapping[int, int]
    """Requests that name no version are split in proportion to these, by version."""
