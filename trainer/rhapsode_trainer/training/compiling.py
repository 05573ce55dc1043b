"""torch.compile for the layers of a model, where a run is long enough to pay for it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

# Compiling pays when what it saves is more than it takes: tokens > seconds / (1 / eager - 1 / compiled), with rates in
# tokens a second. By 45 s, 200,000 and 300,000 for GPT-2 124M that is 27 million tokens, and in proportion less for a
# larger model: tokens times parameters. The rates are published ones of others; none was measured here.
BREAK_EVEN = 3.4e15


def pays(setting: str, *, cuda: bool, tokens: int, parameters: int) -> bool:
    """What `training.compile` means for a run of so many tokens."""
    return setting == "always" or (setting == "auto" and cuda and tokens * parameters > BREAK_EVEN)


def layers_of(model: Any) -> Sequence[torch.nn.Module]:
    """The decoder layers of a causal language model of transformers. Raises ValueError if it has no such list."""
    for module in model.modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == model.config.num_hidden_layers:
            return list(module)
    raise ValueError(f"{type(model).__name__} has no list of layers to compile")


class CompiledLayers:
    """All layers share their code and their shapes, so that one is compiled for all: seconds instead of minutes."""

    def __init__(self, model: Any) -> None:
        self._layers = layers_of(model)
        self._compiled = [torch.compile(layer._call_impl) for layer in self._layers]

    @contextmanager
    def active(self) -> Iterator[None]:
        """Within the block, the layers run compiled."""
        for layer, compiled in zip(self._layers, self._compiled, strict=True):
            layer._compiled_call_impl = compiled
        try:
            yield
        finally:
            for layer in self._layers:
                layer._compiled_call_impl = None
