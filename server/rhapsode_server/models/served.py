"""What can be asked of a version that serves."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from rhapsode_server.engine.request import SamplingParameters
from rhapsode_server.text.tokenizer import Tokenizer
from rhapsode_server.workers.stream import TokenStream


class VersionState(Enum):
    """Where a version stands on this server."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a request may ask: tokens of prompt and completion together, ids, requests at once and in the queue."""

    context_length: int
    vocabulary_size: int
    max_sequences: int
    max_queued_requests: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationDefaults:
    """What the version's generation_config says for what a request leaves unset. Temperature 0 is greedy."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()


class Submits(Protocol):
    """Takes requests for an engine."""

    def hold(self) -> AbstractContextManager[None]:
        """Meanwhile the engine is not retired, so that who resolved a version can still submit to it."""

    def submit(
        self,
        *,
        prompt_ids: Sequence[int],
        max_new_tokens: int,
        sampling: SamplingParameters,
        stop_token_ids: frozenset[int],
    ) -> TokenStream:
        """Queue a request. Raises Overloaded when the queue is full, Unavailable when the engine is not there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedVersion:
    """A version that takes requests."""

    model: str
    version: int
    tokenizer: Tokenizer
    defaults: GenerationDefaults
    limits: Limits
    engine: Submits


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionStatus:
    """A version as this server sees it. `reason` says why it is quarantined; the rest is empty until loaded."""

    version: int
    state: VersionState
    reason: str = ""
    dtype: str = ""
    device: str = ""
    parameter_count: int = 0
    limits: Limits | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelStatus:
    """A model of the directory: its aliases and the versions that this server knows, in ascending order."""

    name: str
    aliases: dict[str, int] = field(default_factory=dict)
    versions: tuple[VersionStatus, ...] = ()

    @property
    def is_serving(self) -> bool:
        return any(version.state is VersionState.SERVING for version in self.versions)


class Models(Protocol):
    """The models of the directory, as `rpc` sees them."""

    def resolve(self, model: str, *, version: int | None = None, alias: str | None = None) -> ServedVersion:
        """Who answers. Raises InvalidRequest (field `model`: empty, and there are several), NotFound, Unavailable."""

    def status(self, model: str) -> ModelStatus:
        """One model; empty as in `resolve`. Raises InvalidRequest, NotFound."""

    def statuses(self) -> list[ModelStatus]:
        """Every model, sorted by name."""
