"""The attention of every layer, called by transformers' own model definitions.

The function is registered under a name for which no mask function exists, so transformers builds no mask and the model
passes our `batch=` keyword through. What the batch does with queries, keys and values is its own: `row_attention` goes
row by row on any device and is the oracle of the others.

Shape letters: N query heads, K key-value heads, H head dimension, P packed tokens of all rows.
"""

from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn
from transformers import AttentionInterface

from rhapsode_server.engine.refusal import UNSUPPORTED_ARCHITECTURE, ModelRefused

ATTENTION = "rhapsode"

# Passed on by some models and without influence on causal attention over rows.
_WITHOUT_INFLUENCE = frozenset(
    {"position_ids", "use_cache", "cache_position", "output_attentions", "output_router_logits"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionOptions:
    """What a layer asks for. `sinks` are learned logits [N] that take part in the softmax and then drop out."""

    scaling: float | None
    sliding_window: int | None
    softcap: float | None
    sinks: Tensor | None

    @property
    def is_plain(self) -> bool:
        return self.softcap is None and self.sinks is None


class ForwardBatch(Protocol):
    """What one forward carries to the attention of every layer. Layers are told apart by the order of their calls."""

    @property
    def num_layers_seen(self) -> int: ...

    def attend(self, query_1NPH: Tensor, key_1KPH: Tensor, value_1KPH: Tensor, options: AttentionOptions) -> Tensor:
        """Store the keys and values of the next layer and let every row attend to its sequence: [1, P, N, H]."""


def packed_attention(
    module: nn.Module,
    query_1NPH: Tensor,
    key_1KPH: Tensor,
    value_1KPH: Tensor,
    attention_mask: Tensor | None,
    *,
    batch: ForwardBatch,
    scaling: float | None = None,
    dropout: float = 0.0,
    is_causal: bool | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attention of every row over its own sequence. Returns [1, P, N, H].

    Raises ModelRefused for anything that it would have to ignore.
    """
    _refuse_the_unknown(
        others, attention_mask=attention_mask, dropout=dropout or None, not_causal=is_causal is False or None
    )
    options = AttentionOptions(scaling=scaling, sliding_window=sliding_window, softcap=softcap, sinks=s_aux)
    return batch.attend(query_1NPH, key_1KPH, value_1KPH, options), None


AttentionInterface.register(ATTENTION, packed_attention)


def _refuse_the_unknown(others: dict[str, Any], **must_be_none: Any) -> None:
    unknown = {name: value for name, value in others.items() if name not in _WITHOUT_INFLUENCE} | must_be_none
    names = sorted(name for name, value in unknown.items() if value is not None)
    if names:
        raise ModelRefused(
            UNSUPPORTED_ARCHITECTURE, f"its attention asks for {', '.join(names)}, which is not supported"
        )
