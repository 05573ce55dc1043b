"""Proof, once at load, that a model run by this engine is the model that transformers would run.

Many architectures load and then never call an attention function that is not theirs, or ignore what it is told. So the
plain forward of the same weights is the oracle: two packed prompts and four decode steps must equal it.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from rhapsode_server.engine.attention import ATTENTION
from rhapsode_server.engine.batch import Draw, Row
from rhapsode_server.engine.memory import BLOCK_SIZE
from rhapsode_server.engine.refusal import NON_FINITE_LOGITS, UNSUPPORTED_ARCHITECTURE, ModelRefused
from rhapsode_server.engine.request import SamplingParameters
from rhapsode_server.engine.runner import ModelRunner

PROMPT_LENGTHS = (13, 6)
NUM_DECODE_STEPS = 4

# Largest difference of a logit, relative to the largest logit. Equal kernels differ by about 2e-7 in float32; the
# reduced types round every layer, so that different shapes of the same product differ by a few units of 2^-8 or 2^-11.
# With int8 a difference of 1e-7 may move an activation to the next of 255 levels, and that grows with the layers: 1e-7
# was seen for shallow models, 0.11 for one of 30 layers.
TOLERANCES = {"float32": 1e-4, "bfloat16": 0.08, "float16": 0.02, "int8": 0.3}


@torch.inference_mode()
def prove(runner: ModelRunner) -> int:
    """Raise ModelRefused unless the engine equals the plain forward. Returns KV bytes per token."""
    sequences = [_token_ids(runner, length + NUM_DECODE_STEPS, seed) for seed, length in enumerate(PROMPT_LENGTHS)]
    expected = _plain_logits(runner, sequences)
    actual = engine_logits(runner, sequences, PROMPT_LENGTHS)
    bytes_per_token = runner.kv_cache.bytes_per_token(slot=0)
    runner.kv_cache.release(range(len(sequences)))
    _compare(actual, expected, TOLERANCES[runner.loaded.dtype])
    return bytes_per_token


def _token_ids(runner: ModelRunner, length: int, seed: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(runner.vocabulary_size, (length,), generator=generator).tolist()


def _plain_logits(runner: ModelRunner, sequences: Sequence[list[int]]) -> Tensor:
    model = runner.loaded.model
    model.set_attn_implementation("eager")
    logits = [
        model(input_ids=torch.tensor([ids], device=runner.loaded.device), use_cache=False).logits[0, length - 1 :]
        for ids, length in zip(sequences, PROMPT_LENGTHS, strict=True)
    ]
    return torch.stack(logits, dim=1)


def engine_logits(runner: ModelRunner, sequences: Sequence[list[int]], prompt_lengths: Sequence[int]) -> Tensor:
    """All prompts in one forward, then one token of each in each of the next: logits [1 + steps, sequence, V].

    What follows the prompts is equally long in all. The KV of the sequences stays in the first slots.
    """
    runner.loaded.model.set_attn_implementation(ATTENTION)
    num_steps = len(sequences[0]) - prompt_lengths[0]
    spans = [[(0, length) for length in prompt_lengths]]
    spans += [[(length + step, 1) for length in prompt_lengths] for step in range(num_steps)]
    return torch.stack([_forward(runner, sequences, step) for step in spans])


def _forward(runner: ModelRunner, sequences: Sequence[list[int]], spans: Sequence[tuple[int, int]]) -> Tensor:
    rows = [
        _row(slot, ids, start, count, range(slot, len(ids) * len(sequences), len(sequences)))
        for slot, (ids, (start, count)) in enumerate(zip(sequences, spans, strict=True))
    ]
    try:
        forward = runner.forward(rows)
    except (ModelRefused, torch.OutOfMemoryError):
        raise
    except Exception as error:  # whatever a model definition does with arguments that it does not expect
        raise ModelRefused(UNSUPPORTED_ARCHITECTURE, f"it cannot be called as the engine calls it: {error}") from error
    if forward.num_attention_calls != runner.loaded.num_layers:
        raise ModelRefused(
            UNSUPPORTED_ARCHITECTURE,
            f"{forward.num_attention_calls} of {runner.loaded.num_layers} layers use the engine's attention",
        )
    return forward.logits_RV.clone()


def _row(slot: int, ids: list[int], start: int, num_tokens: int, blocks: Sequence[int]) -> Row:
    """Of the blocks, which are those of no other slot, it has as many as it needs."""
    return Row(
        slot=slot,
        start=start,
        num_tokens=num_tokens,
        token_ids=tuple(ids[start : start + num_tokens]),
        num_reserved_tokens=len(ids),
        draw=Draw(parameters=SamplingParameters(), position=start + num_tokens),
        blocks=tuple(blocks[: -(-len(ids) // BLOCK_SIZE)]) if start == 0 else (),
    )


def _compare(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    if not (actual.isfinite().all() and expected.isfinite().all()):
        raise ModelRefused(NON_FINITE_LOGITS, "its logits are not finite")
    difference = (actual - expected).abs().max() / expected.abs().max().clamp(min=1e-6)
    if difference > tolerance:
        detail = (
            f"the engine's logits differ from the plain forward by {difference:.2g} of the largest, above {tolerance:g}"
        )
        raise ModelRefused(UNSUPPORTED_ARCHITECTURE, detail)
