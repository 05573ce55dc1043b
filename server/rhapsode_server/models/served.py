"""What can be asked of a version that serves."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol

from rhapsode_contract.postprocess import Pipeline

from rhapsode_server.models.limits import Limits
from rhapsode_server.text.chat import ChatTemplate
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
class GenerationDefaults:
    """What the version's generation_config says for what a request leaves unset. Temperature 0 is greedy."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()


class Submits(Protocol):
    """Takes requests for an engine."""

    def hold(self) -> AbstractContextManager[None]:
        """Meanwhile the engine is not retired, so that who resolved a version can still submit to it."""

    def submit(self, *, prompt_ids: Sequence[int], **fields: Any) -> TokenStream:
        """Queue a request with the fields of EngineRequest but its id.

        Raises Overloaded when the queue is full, by requests or by tokens, or the request would begin after its
        deadline; Unavailable when the engine is not there.
        """

    def new_group(self) -> int:
        """For requests of the same prompt, which is then computed once."""

    def predicted_wait(self, num_tokens: int, priority: int = 0) -> float:
        """Seconds until a request of so many tokens, prompt and completion, would begin, by the measured rate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedVersion:
    """A version that takes requests. Without a chat template it takes no conversations."""

    model: str
    version: int
    tokenizer: Tokenizer
    chat_template: ChatTemplate | None = None
    postprocess: Pipeline = field(default_factory=Pipeline)
    defaults: GenerationDefaults
    limits: Limits
    engine: Submits
    note_end: Callable[[str], None] = lambda outcome: None
    """Hears how each request to it ended: `ok`, or what went wrong (`rpc` has the table)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationSummary:
    """What the trainer measured on held-out text; None for what it did not."""

    bits_per_byte: float | None = None
    perplexity: float | None = None
    accepted: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaStatus:
    """A process that runs a version. `process_id` is 0 while it is being started again."""

    process_id: int
    device: str
    ready: bool
    waiting: int = 0
    running: int = 0
    restarts: int = 0


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
    evaluation: EvaluationSummary | None = None
    replicas: tuple[ReplicaStatus, ...] = ()


class TrafficSource(Enum):
    """Who decided how requests are split."""

    NOTHING = "nothing"
    CHAMPION = "champion"
    PINNED = "pinned"
    WEIGHTS = "weights"
    OVERRIDE = "override"
    FALLBACK = "fallback"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficOverride:
    """An operator's decision for this server. `expires_at` is Unix time in seconds.

    `based_on` is the fleet's decision that it was made against: it ends when the fleet decides anew. None: it holds
    whatever the fleet decides.
    """

    weights: Mapping[int, int]
    expires_at: float
    reason: str = ""
    based_on: Mapping[int, int] | None = None
    is_rollback: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelStatus:
    """A model of the directory: its aliases and the versions that this server knows, in ascending order.

    `traffic` is how requests that name no version are split now, by version.
    """

    name: str
    aliases: dict[str, int] = field(default_factory=dict)
    versions: tuple[VersionStatus, ...] = ()
    traffic: Mapping[int, int] = field(default_factory=dict)
    source: TrafficSource = TrafficSource.NOTHING
    override: TrafficOverride | None = None

    @property
    def is_serving(self) -> bool:
        return any(version.state is VersionState.SERVING for version in self.versions)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """What goes wrong here beyond what the states of versions say.

    `directory`: why the model directory cannot be read; empty: it can. `hung_devices`: those on which a worker hung,
    and on which the server could not bring one up again within the time that loading may take.
    """

    directory: str = ""
    hung_devices: tuple[str, ...] = ()


class Models(Protocol):
    """The models of the directory, as `rpc` sees them."""

    def resolve(
        self, model: str, *, version: int | None = None, alias: str | None = None, key: str = ""
    ) -> ServedVersion:
        """Who answers. Where traffic is split between versions, requests of one `key` go to the same one.

        Raises InvalidRequest (field `model`: empty, and there are several), NotFound, Unavailable.
        """

    def status(self, model: str) -> ModelStatus:
        """One model; empty as in `resolve`. Raises InvalidRequest, NotFound."""

    def statuses(self) -> list[ModelStatus]:
        """Every model, sorted by name."""


class ModelAdmin(Protocol):
    """What an operator may do to the models of this server.

    All raise InvalidRequest (field `model`), NotFound, NotPossible. `ttl` is in seconds.
    """

    @property
    def standby_ready(self) -> bool:
        """Whether a pre-imported process waits to become the next worker."""

    def status(self, model: str) -> ModelStatus: ...

    def statuses(self) -> list[ModelStatus]: ...

    async def set_traffic(
        self, model: str, weights: Mapping[int, int], *, ttl: float, reason: str, holds: bool
    ) -> None:
        """Split requests so. Unless it `holds`, it ends when the fleet decides anew."""

    async def clear_traffic(self, model: str) -> None: ...

    async def rollback(self, model: str, *, ttl: float, reason: str) -> None: ...

    async def load_version(self, model: str, version: int, *, ttl: float) -> None:
        """Until it is ready."""

    async def unload_version(self, model: str, version: int) -> None: ...
