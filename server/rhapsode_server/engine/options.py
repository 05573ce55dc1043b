"""What to load and how to run it. Imports no torch."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """`vocabulary_size` is the tokenizer's; `threads` 0: one for each core; `kv_cache_memory` is in bytes, None:
    what the fraction of the device's memory leaves beside the weights."""

    path: str
    vocabulary_size: int
    device: str = "auto"
    dtype: str = "auto"
    quantization: str = "none"
    threads: int = 0
    max_sequences: int = 64
    max_batch_tokens: int = 512
    prefix_cache: bool = True
    kv_cache_memory: int | None = None
    device_memory_fraction: float = 0.45
