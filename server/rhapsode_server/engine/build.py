"""From a version folder to an engine that is proven to run it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers.utils import logging as transformers_logging

from rhapsode_server.engine.block_pool import BlockPool
from rhapsode_server.engine.engine import Engine
from rhapsode_server.engine.loader import LoadedModel, choose_device, choose_dtype, load_model
from rhapsode_server.engine.memory import BLOCK_SIZE, num_kv_blocks
from rhapsode_server.engine.options import EngineOptions
from rhapsode_server.engine.proof import prove
from rhapsode_server.engine.refusal import LOAD_FAILED, OUT_OF_MEMORY, TOKENIZER_MISMATCH, ModelRefused
from rhapsode_server.engine.runner import ModelRunner
from rhapsode_server.engine.scheduler import Scheduler


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltEngine:
    """An engine and the facts of the model in it. `context_length` is what the model and the KV cache allow."""

    engine: Engine
    loaded: LoadedModel
    context_length: int


def build_engine(options: EngineOptions, on_loaded: Callable[[], None] = lambda: None) -> BuiltEngine:
    """Load, prove and size. `on_loaded` is called between loading and proving. Raises ModelRefused."""
    torch.set_num_threads(options.threads or torch.get_num_threads())
    transformers_logging.disable_progress_bar()
    loaded = _load(options)
    on_loaded()
    runner = ModelRunner(
        loaded=loaded, vocabulary_size=_vocabulary_size(options, loaded), max_sequences=options.max_sequences
    )
    try:
        pool = BlockPool(num_blocks=_num_blocks(options, loaded, prove(runner)), block_size=BLOCK_SIZE)
    except torch.OutOfMemoryError as error:
        raise ModelRefused(OUT_OF_MEMORY, f"no memory left to run it on {loaded.device}") from error
    scheduler = Scheduler(pool=pool, max_sequences=options.max_sequences, max_batch_tokens=options.max_batch_tokens)
    # Score reserves the context and the token after it.
    context_length = min(loaded.context_length, pool.num_tokens - 1)
    return BuiltEngine(engine=Engine(scheduler, runner), loaded=loaded, context_length=context_length)


def _load(options: EngineOptions) -> LoadedModel:
    try:
        device = choose_device(options.device)
    except ValueError as error:
        raise ModelRefused(LOAD_FAILED, str(error)) from error
    return load_model(Path(options.path), device=device, dtype=choose_dtype(options.dtype, device))


def _vocabulary_size(options: EngineOptions, loaded: LoadedModel) -> int:
    if options.vocabulary_size > loaded.vocabulary_size:
        raise ModelRefused(
            TOKENIZER_MISMATCH,
            f"the tokenizer has {options.vocabulary_size} ids and the model only {loaded.vocabulary_size}",
        )
    return options.vocabulary_size


def _num_blocks(options: EngineOptions, loaded: LoadedModel, bytes_per_token: int) -> int:
    return num_kv_blocks(
        memory=options.kv_cache_memory,
        bytes_per_token=bytes_per_token,
        device=loaded.device,
        # Every sequence rounds up to whole blocks.
        most_tokens=options.max_sequences * (loaded.context_length + BLOCK_SIZE),
    )
