"""Batches on a CUDA device: decode rows by graph, what is computed of prompts as a second forward of the same step.

So a prompt that arrives does not throw the streams off their graphs. Nothing here waits for the device: a step is
launched, and its tokens are read when the next one has been.
"""

from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from rhapsode_server.engine.batch import Batch, Row
from rhapsode_server.engine.cuda.attention import paged_attention
from rhapsode_server.engine.cuda.cache import PagedCache
from rhapsode_server.engine.cuda.decoder import Decoder
from rhapsode_server.engine.cuda.graphs import Capture
from rhapsode_server.engine.linears import trim
from rhapsode_server.engine.loader import LoadedModel
from rhapsode_server.engine.runner import ModelRunner, PendingBatch

# Steps in flight: one runs while the host reads and plans.
DEPTH = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class CudaRunner:
    """A Runner. `eager` runs any rows, and is what is proven at load; `decoder` those that decode."""

    eager: ModelRunner
    decoder: Decoder

    @torch.inference_mode()
    def execute(self, batch: Batch) -> PendingBatch:
        num_decodes = next((number for number, row in enumerate(batch.rows) if not _decodes(row)), len(batch.rows))
        decodes, others = batch.rows[:num_decodes], batch.rows[num_decodes:]
        computed = [self.decoder.compute(decodes)] if decodes else []
        computed += [self.eager.compute(others)] if others else []
        return PendingBatch.begin(computed)


def eager_runner(loaded: LoadedModel, *, vocabulary_size: int, max_sequences: int) -> ModelRunner:
    """A runner over a paged cache, which has no blocks yet but those of the rows that it is given."""
    # A graph launches faster than a host, but each kernel still takes its microseconds.
    trim(loaded.model, partial(nn.GELU, approximate="tanh"))
    # Score reserves the context and the token after it.
    cache = PagedCache(num_slots=max_sequences, max_tokens=loaded.context_length + 1, device=loaded.device)
    return ModelRunner(
        loaded=loaded,
        vocabulary_size=vocabulary_size,
        max_sequences=max_sequences,
        kv_cache=cache,
        attention=paged_attention,
    )


def cuda_runner(eager: ModelRunner, *, num_blocks: int, max_rows: int, capture: Capture) -> CudaRunner:
    """A runner that serves with so many blocks and up to `max_rows` rows that decode."""
    cache = eager.kv_cache
    assert isinstance(cache, PagedCache)
    cache.grow(num_blocks)
    decoder = Decoder(runner=eager, cache=cache, max_rows=max_rows)
    decoder.record(capture)
    return CudaRunner(eager=eager, decoder=decoder)


def _decodes(row: Row) -> bool:
    """Whether it feeds a token that an earlier step drew, and draws the next one."""
    return row.draw is not None and row.start >= row.draw.num_prompt_tokens
