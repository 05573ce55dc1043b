"""The canary: a version must say here, token by token, what its publisher recorded.

Twice. The weights as they are in the file, in float32, by transformers alone, with hardly any room: another fine-tune
may differ by less than the rounding of a reduced type. Then the engine as it will serve, within what its type rounds.

Shape letters: T tokens of the continuation, V vocabulary.
"""

import torch
from torch import Tensor

from rhapsode_server.engine.canary_file import Canary
from rhapsode_server.engine.loader import LoadedModel
from rhapsode_server.engine.proof import engine_logits
from rhapsode_server.engine.refusal import CANARY_OFF, NON_FINITE_LOGITS, ModelRefused
from rhapsode_server.engine.runner import ModelRunner

# Largest mean difference of a token's log-probability, in nats. docs/decisions.md has the measurements.
WEIGHTS_BOUND = 1e-4
BOUNDS = {"float32": 5e-4, "float16": 0.02, "bfloat16": 0.1, "int8": 0.25}

# Where the best token led by more than so many bounds when it was recorded, it must still lead.
_CLEAR = 4

_NUM_ROWS = (4, 2, 1)


@torch.inference_mode()
def compare_weights(canary: Canary, loaded: LoadedModel) -> float:
    """Of a model as loaded in float32: the mean difference in nats. Raises ModelRefused."""
    _check_fit(canary, loaded)
    ids = torch.tensor([canary.fed_ids], device=loaded.device)
    logits_TV = loaded.model(input_ids=ids, use_cache=False).logits[0, len(canary.prompt_ids) - 1 :]
    return _compare(canary, logits_TV, WEIGHTS_BOUND, "the weights in float32")


@torch.inference_mode()
def replay(canary: Canary, runner: ModelRunner) -> float:
    """Through the engine, prefill and then token by token: the mean difference in nats. Raises ModelRefused.

    Several rows side by side, each for its part of the continuation, take fewer steps, and are how the engine serves.
    """
    _check_fit(canary, runner.loaded)
    num_tokens = len(canary.continuation_ids)
    num_rows = next(number for number in _NUM_ROWS if num_tokens % number == 0)
    steps = num_tokens // num_rows
    prompt_lengths = [len(canary.prompt_ids) + row * steps for row in range(num_rows)]
    sequences = [canary.fed_ids[: length + steps - 1] for length in prompt_lengths]
    logits_TV = engine_logits(runner, sequences, prompt_lengths).transpose(0, 1).flatten(0, 1)
    runner.kv_cache.release(range(num_rows))
    return _compare(canary, logits_TV, BOUNDS[runner.loaded.dtype], f"the engine's logits in {runner.loaded.dtype}")


def _check_fit(canary: Canary, loaded: LoadedModel) -> None:
    largest, length = max(*canary.prompt_ids, *canary.continuation_ids), len(canary.fed_ids)
    if largest >= loaded.vocabulary_size:
        detail = f"canary.json holds the token id {largest}, the model has {loaded.vocabulary_size}"
        raise ModelRefused(CANARY_OFF, detail)
    if length > loaded.context_length:
        detail = f"canary.json holds {length} tokens, the model's context {loaded.context_length}"
        raise ModelRefused(CANARY_OFF, detail)


def _compare(canary: Canary, logits_TV: Tensor, bound: float, what: str) -> float:
    if not logits_TV.isfinite().all():
        raise ModelRefused(NON_FINITE_LOGITS, f"{what} are not finite, or what they give is not")
    logprobs_TV = logits_TV.float().cpu().log_softmax(-1)
    expected_T, ids_T = torch.tensor(canary.logprobs), torch.tensor(canary.continuation_ids)
    difference = float((logprobs_TV.gather(1, ids_T[:, None])[:, 0] - expected_T).abs().mean())
    if difference > bound:
        detail = f"{what} differ from the canary by {difference:.2g} nats a token, above {bound:g}"
        raise ModelRefused(CANARY_OFF, detail)
    is_clear_T = torch.tensor(canary.margins) > _CLEAR * bound
    num_flipped = int((is_clear_T & (logprobs_TV.argmax(-1) != ids_T)).sum())
    if num_flipped:
        raise ModelRefused(
            CANARY_OFF, f"{what} prefer another token at {num_flipped} of {int(is_clear_T.sum())} clear places"
        )
    return difference
