from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from rhapsode_server.engine.attention import ForwardBatch
from rhapsode_server.engine.block_pool import BlockPool
from rhapsode_server.engine.cpu_attention import CpuBatch, cpu_attention
from rhapsode_server.engine.decode_tapes import DecodeTapes
from rhapsode_server.engine.engine import Engine
from rhapsode_server.engine.kv_cache import KVCache
from rhapsode_server.engine.loader import load_model
from rhapsode_server.engine.runner import ModelRunner
from rhapsode_server.engine.scheduler import Scheduler, num_slots
from support.tiny_models import VOCABULARY_SIZE, tiny_model
from transformers import PreTrainedModel

Load = Callable[..., ModelRunner]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Save a model and load it as a worker would, with our attention in it."""

    def load_tiny(
        model: PreTrainedModel | str,
        *,
        dtype: torch.dtype = torch.float32,
        max_sequences: int = 64,
        attention: Callable[..., ForwardBatch] | None = None,
    ) -> ModelRunner:
        model = tiny_model(model) if isinstance(model, str) else model
        model.save_pretrained(tmp_path / "version")
        loaded = load_model(tmp_path / "version", device=torch.device("cpu"), dtype=dtype)
        attention, kv_cache = attention or cpu_attention(dtype), KVCache()
        return ModelRunner(
            loaded=loaded,
            vocabulary_size=VOCABULARY_SIZE,
            max_sequences=max_sequences,
            kv_cache=kv_cache,
            attention=attention,
            tapes=DecodeTapes(loaded=loaded, kv_cache=kv_cache) if attention is CpuBatch else None,
        )

    return load_tiny


def make_engine(
    runner: ModelRunner,
    *,
    depth: int = 1,
    max_batch_tokens: int = 128,
    num_blocks: int = 2000,
    prefix_cache: bool = False,
    step_overhead: int = 1024,
) -> Engine:
    scheduler = Scheduler(
        pool=BlockPool(num_blocks=num_blocks, block_size=16),
        max_sequences=runner.max_sequences // num_slots(1, prefix_cache=prefix_cache),
        max_batch_tokens=max_batch_tokens,
        prefix_cache=prefix_cache,
        step_overhead=step_overhead,
    )
    return Engine(scheduler, runner, depth=depth)
