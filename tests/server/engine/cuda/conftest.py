from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rhapsode_server.engine.block_pool import BlockPool
from rhapsode_server.engine.cuda.graphs import Capture
from rhapsode_server.engine.cuda.runner import DEPTH, CudaRunner, cuda_runner, eager_runner
from rhapsode_server.engine.engine import Engine
from rhapsode_server.engine.loader import load_model
from rhapsode_server.engine.proof import prove
from rhapsode_server.engine.scheduler import Scheduler, num_slots
from support.recorded_graphs import Recording
from support.tiny_models import VOCABULARY_SIZE, tiny_model
from transformers import PreTrainedModel

Load = Callable[..., CudaRunner]
NUM_BLOCKS = 2000


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Save a model and load it as a worker would on CUDA; on the CPU with graphs that are recorded there."""

    def load_tiny(
        model: PreTrainedModel | str,
        *,
        max_sequences: int = 32,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        capture: Capture | None = None,
    ) -> CudaRunner:
        model = tiny_model(model) if isinstance(model, str) else model
        model.save_pretrained(tmp_path / "version")
        loaded = load_model(tmp_path / "version", device=torch.device(device), dtype=dtype)
        slots = num_slots(max_sequences, prefix_cache=True)
        eager = eager_runner(loaded, vocabulary_size=VOCABULARY_SIZE, max_sequences=slots)
        prove(eager)
        return cuda_runner(eager, num_blocks=NUM_BLOCKS, max_rows=max_sequences, capture=capture or Recording())

    return load_tiny


def make_engine(
    runner: Any, *, depth: int = DEPTH, max_sequences: int = 32, max_batch_tokens: int = 128, prefix_cache: bool = False
) -> Engine:
    scheduler = Scheduler(
        pool=BlockPool(num_blocks=NUM_BLOCKS, block_size=16),
        max_sequences=max_sequences,
        max_batch_tokens=max_batch_tokens,
        prefix_cache=prefix_cache,
    )
    return Engine(scheduler, runner, depth=depth)
