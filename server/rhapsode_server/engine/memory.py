"""What a version needs of a device's memory, and how much of it the KV cache may take.

Two workers of a model stand side by side during a swap. So each takes a fraction of the device, weights and KV cache
together; only a size of the cache that an operator states may take it beyond that.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedModel

from rhapsode_server.engine.host_memory import Memory, host_memory
from rhapsode_server.engine.linears import weights_bytes
from rhapsode_server.engine.options import EngineOptions
from rhapsode_server.engine.refusal import OUT_OF_MEMORY, TOO_LARGE, ModelRefused

BLOCK_SIZE = 16
# Of a cache whose size is not stated: with fewer, hardly a prompt would fit.
_FEWEST_TOKENS = 256


def check_room(options: EngineOptions, device: torch.device, dtype: torch.dtype) -> None:
    """Before loading: raises ModelRefused when the weights cannot fit, rather than let the system end the process."""
    memory, count, cache = device_memory(device), num_parameters(Path(options.path)), options.kv_cache_memory
    _require(count * dtype.itemsize + (cache or 0), memory.free, f"are free on {device}")
    if cache is None:
        # What is loaded in float32 is a quarter of that in the end.
        weights = count * (1 if options.quantization == "int8" else dtype.itemsize)
        share = int(memory.total * options.device_memory_fraction)
        _require(weights, share, f"are its share of {device} (--device-memory-fraction)", reason=TOO_LARGE)


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheSize:
    """Of the KV cache; `memory_bytes` counts the weights too."""

    num_blocks: int
    memory_bytes: int


def size_cache(options: EngineOptions, model: PreTrainedModel, *, bytes_per_token: int, most_tokens: int) -> CacheSize:
    """What the options say, else what the fraction leaves, never more than `most_tokens` need. After loading.

    Raises ModelRefused when it would hold too little.
    """
    weights, budget = weights_bytes(model), options.kv_cache_memory
    fewest_tokens = BLOCK_SIZE
    if budget is None:
        memory = device_memory(model.device)
        budget = max(0, min(int(memory.total * options.device_memory_fraction) - weights, memory.free))
        fewest_tokens = min(_FEWEST_TOKENS, most_tokens)
    num_tokens = min(most_tokens, budget // bytes_per_token)
    if num_tokens < fewest_tokens:
        raise ModelRefused(
            OUT_OF_MEMORY,
            f"{budget:,} bytes for the KV cache hold fewer than {fewest_tokens} tokens of {bytes_per_token:,} bytes",
        )
    num_blocks = num_tokens // BLOCK_SIZE
    return CacheSize(num_blocks=num_blocks, memory_bytes=weights + num_blocks * BLOCK_SIZE * bytes_per_token)


def device_memory(device: torch.device) -> Memory:
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return Memory(total=total, free=free)
    return host_memory()


def num_parameters(path: Path) -> int:
    """As the headers of the files say; what cannot be read, loading will name."""
    total = 0
    for file in path.glob("*.safetensors"):
        try:
            with safe_open(file, framework="pt") as weights:
                total += sum(math.prod(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118
        except (SafetensorError, OSError):
            continue
    return total


def _require(needed: int, there: int, what: str, reason: str = OUT_OF_MEMORY) -> None:
    if needed > there:
        raise ModelRefused(reason, f"it needs {_gibibytes(needed)}, {_gibibytes(there)} {what}")


def _gibibytes(number: int) -> str:
    return f"{number / 2**30:.3g} GiB"
