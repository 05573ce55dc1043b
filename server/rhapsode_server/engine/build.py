"""From a version folder to an engine that is proven to run it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers.utils import logging as transformers_logging

from rhapsode_server.engine.block_pool import BlockPool
from rhapsode_server.engine.canary import BOUNDS, replay
from rhapsode_server.engine.canary_file import Canary, read_canary
from rhapsode_server.engine.cpu_attention import CpuBatch, cpu_attention
from rhapsode_server.engine.cuda.graphs import CudaGraphs
from rhapsode_server.engine.cuda.runner import DEPTH, cuda_runner, eager_runner
from rhapsode_server.engine.decode_tapes import DecodeTapes
from rhapsode_server.engine.engine import Engine
from rhapsode_server.engine.host_processors import available_cores
from rhapsode_server.engine.kv_cache import KVCache
from rhapsode_server.engine.loader import LoadedModel, choose_device, choose_dtype
from rhapsode_server.engine.loading import load_checked
from rhapsode_server.engine.memory import BLOCK_SIZE, check_room, size_cache
from rhapsode_server.engine.options import EngineOptions
from rhapsode_server.engine.proof import prove
from rhapsode_server.engine.refusal import (
    LOAD_FAILED,
    OUT_OF_MEMORY,
    TOKENIZER_MISMATCH,
    ModelRefused,
    is_out_of_memory,
)
from rhapsode_server.engine.runner import ModelRunner
from rhapsode_server.engine.scheduler import STEP_OVERHEAD, Scheduler, num_slots

# torch asks neither control groups nor which processors share a core; OMP_NUM_THREADS it knows.
ALL_THREADS = min(torch.get_num_threads(), available_cores())
FEW_THREADS = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltEngine:
    """An engine and the facts of the model in it.

    `context_length` is what the model and the KV cache allow, `memory_bytes` what both may take of the device, `canary`
    one line of what was compared.
    """

    engine: Engine
    loaded: LoadedModel
    context_length: int
    memory_bytes: int
    canary: str = ""


def build_engine(
    options: EngineOptions, on_stage: Callable[[str], None] = lambda name: None, *, gives_way: bool = False
) -> BuiltEngine:
    """Load, prove and size. `on_stage` hears `warming` after loading, `canary` before the replay. Raises ModelRefused.

    If it gives way to others it takes few threads; afterwards the calling thread has those of the options.
    """
    use_threads(options, share=FEW_THREADS if gives_way else 1.0)
    transformers_logging.disable_progress_bar()
    try:
        return _build(options, on_stage)
    except Exception as error:
        if is_out_of_memory(error):
            raise ModelRefused(OUT_OF_MEMORY, f"no memory left to run it: {error}") from error
        raise
    finally:
        use_threads(options)


def use_threads(options: EngineOptions, share: float = 1.0) -> None:
    """A share of those of the options, for what the calling thread computes from now on."""
    torch.set_num_threads(max(1, int((options.threads or ALL_THREADS) * share)))


def _build(options: EngineOptions, on_stage: Callable[[str], None]) -> BuiltEngine:
    canary = read_canary(Path(options.path))
    loaded, weights_note = _load(options, canary)
    on_stage("warming")
    runner = _runner(options, loaded)
    bytes_per_token = prove(runner)
    on_stage("canary")
    note = _replay(canary, runner, weights_note)
    size = size_cache(
        options,
        loaded.model,
        bytes_per_token=bytes_per_token,
        # Every sequence rounds up to whole blocks.
        most_tokens=options.max_sequences * (loaded.context_length + BLOCK_SIZE),
    )
    pool = BlockPool(num_blocks=size.num_blocks, block_size=BLOCK_SIZE)
    scheduler = Scheduler(
        pool=pool,
        max_sequences=options.max_sequences,
        max_batch_tokens=options.max_batch_tokens,
        step_overhead=STEP_OVERHEAD[loaded.device.type],
        prefix_cache=options.prefix_cache,
    )
    return BuiltEngine(
        engine=_engine(scheduler, runner),
        loaded=loaded,
        # Score reserves the context and the token after it.
        context_length=min(loaded.context_length, pool.num_tokens - 1),
        memory_bytes=size.memory_bytes,
        canary=note,
    )


def _runner(options: EngineOptions, loaded: LoadedModel) -> ModelRunner:
    vocabulary_size = _vocabulary_size(options, loaded)
    slots = num_slots(options.max_sequences, prefix_cache=options.prefix_cache)
    if loaded.device.type == "cuda":
        return eager_runner(loaded, vocabulary_size=vocabulary_size, max_sequences=slots)
    attention = cpu_attention(loaded.model.dtype)
    kv_cache = KVCache()
    return ModelRunner(
        loaded=loaded,
        vocabulary_size=vocabulary_size,
        max_sequences=slots,
        kv_cache=kv_cache,
        attention=attention,
        tapes=DecodeTapes(loaded=loaded, kv_cache=kv_cache) if attention is CpuBatch else None,
    )


def _engine(scheduler: Scheduler, runner: ModelRunner) -> Engine:
    """What serves: on CUDA a runner with graphs, and a step in flight while the host plans the next."""
    if runner.loaded.device.type != "cuda":
        return Engine(scheduler, runner)
    serving = cuda_runner(
        runner,
        num_blocks=scheduler.pool.num_blocks,
        max_rows=scheduler.max_sequences,
        capture=CudaGraphs(runner.loaded.device),
    )
    return Engine(scheduler, serving, depth=DEPTH)


def _replay(canary: Canary | None, runner: ModelRunner, weights_note: str) -> str:
    if canary is None:
        return "no canary.json: published without one"
    dtype = runner.loaded.dtype
    return f"{weights_note}; engine in {dtype} off by {replay(canary, runner):.1e} nats (bound {BOUNDS[dtype]:g})"


def _load(options: EngineOptions, canary: Canary | None) -> tuple[LoadedModel, str]:
    try:
        device = choose_device(options.device)
    except ValueError as error:
        raise ModelRefused(LOAD_FAILED, str(error)) from error
    dtype = choose_dtype(options.dtype, device)
    check_room(options, device, dtype)
    return load_checked(
        Path(options.path), device=device, dtype=dtype, quantization=options.quantization, canary=canary
    )


def _vocabulary_size(options: EngineOptions, loaded: LoadedModel) -> int:
    if options.vocabulary_size > loaded.vocabulary_size:
        raise ModelRefused(
            TOKENIZER_MISMATCH,
            f"the tokenizer has {options.vocabulary_size} ids and the model only {loaded.vocabulary_size}",
        )
    return options.vocabulary_size
