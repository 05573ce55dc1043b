"""The fast way to train a model on the rows of a run, as far as the model agrees with it.

Nothing is taken on trust: before training, each way is tried on a few tokens of the rows, and must give the loss and
the gradients that the model's own forward gives. A model with soft-capped logits, or with a sliding window, does not,
and is trained as transformers would; one line says so.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from itertools import product
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import TrainingArguments, default_data_collator
from transformers.trainer_utils import unwrap_peft_model

from .attention import CAUSAL, MASKED, PACKED, attention, with_bounds, with_mask
from .compiling import CompiledLayers
from .loss import chunked_loss
from .precision import tensor_float_32
from .proof import outcome, probe_rows

Switch = Callable[[], AbstractContextManager[None]]
Tell = Callable[[str], None]

OWN, CHUNKED = "own", "chunked"
_COLLATORS: Mapping[str, Any] = {PACKED: with_bounds, MASKED: with_mask}
_EXACT, _HALF = 1e-3, 0.1  # relative; in half precision single gradients differ by several per cent
_REFUSALS = (RuntimeError, ValueError, TypeError, AttributeError)


class FastPath:
    """What is switched on while a model trains, and off again while it is measured. `loss` and `attention` are names
    for records; `collate` makes batches of rows."""

    def __init__(self, model: Any, loss: str, attention_name: str) -> None:
        self._model = model
        self._stack = ExitStack()
        self.loss, self.attention, self.compiled = loss, attention_name, False
        self.collate = _COLLATORS.get(attention_name, default_data_collator)
        self.switches: list[Switch] = [partial(_without_padding_check, model)]
        if attention_name != OWN:
            self.switches.append(partial(attention, model, attention_name))
        if loss == CHUNKED:
            self.switches.append(partial(chunked_loss, model))

    @contextmanager
    def active(self) -> Iterator[None]:
        """Within the block the model trains the fast way."""
        try:
            self._switch_on()
            yield
        finally:
            self._stack.close()

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """Within the block everything is as it was."""
        self._stack.close()
        try:
            yield
        finally:
            self._switch_on()

    def _switch_on(self) -> None:
        for switch in self.switches:
            self._stack.enter_context(switch())


def fast_path(model: Any, rows: Sequence[Mapping[str, Any]], arguments: TrainingArguments, tell: Tell) -> FastPath:
    """The fastest way that `model`, which is on the device of `arguments`, agrees with on a few tokens of `rows`."""
    bare, probe = unwrap_peft_model(model), probe_rows(rows)
    is_packed, cuda = "position_ids" in probe[0], arguments.device.type == "cuda"
    if arguments.n_gpu > 1:  # DataParallel cuts batches into parts, and copies modules
        tell("The fast ways are not used: start one process for each GPU, with accelerate launch.")
        return FastPath(bare, OWN, OWN)
    losses = (OWN,) if arguments.label_smoothing_factor or arguments.torch_compile else (CHUNKED, OWN)
    chosen = _proven(bare, probe, (MASKED if is_packed else CAUSAL, OWN), losses, tell)
    if cuda and (arguments.bf16 or arguments.fp16):
        autocast = partial(torch.autocast, "cuda", torch.bfloat16 if arguments.bf16 else torch.float16)
        if is_packed:
            chosen = _with_bounds_if_it_agrees(bare, probe, chosen, autocast, tell)
        elif (refusal := flash_refusal(bare, probe, chosen, autocast)) is not None:
            tell(f"The flash kernel for attention is not used: {refusal}")
    if cuda:
        chosen.switches.append(tensor_float_32)
    return chosen


def compile_layers(path: FastPath, model: Any) -> None:
    """Runs the layers compiled while the path is active. Raises ValueError if the model has no list of them."""
    path.switches.append(CompiledLayers(unwrap_peft_model(model)).active)
    path.compiled = True


def _proven(model: Any, probe: Sequence[Any], attentions: Sequence[str], losses: Sequence[str], tell: Tell) -> FastPath:
    own = outcome(model, default_data_collator(list(probe)))
    for name, loss in product(attentions, losses):
        path = FastPath(model, loss, name)
        if name == loss == OWN or _agrees(path, model, probe, own, _EXACT):
            break
    if path.loss == OWN:
        tell("The loss is computed from all logits: the model, or an argument of training, needs them.")
    if path.attention == OWN:
        tell("Attention is the model's own: it does not get the same from the faster one.")
    return path


def _agrees(path: FastPath, model: Any, probe: Sequence[Any], own: Any, tolerance: float) -> bool:
    try:
        with path.active():
            return bool(outcome(model, path.collate(probe)).agrees(own, tolerance))
    except _REFUSALS:
        return False


def _with_bounds_if_it_agrees(
    model: Any, probe: Sequence[Any], chosen: FastPath, autocast: Switch, tell: Tell
) -> FastPath:
    """The kernel for rows of several documents works in half precision alone."""
    path = FastPath(model, chosen.loss, PACKED)
    with autocast():
        with chosen.active():
            masked = outcome(model, chosen.collate(probe))
        agrees = _agrees(path, model, probe, masked, _HALF)
    refusal = _refusal(model, probe, path, autocast) if agrees else "it does not agree with attention by a mask"
    if refusal is None:
        return path
    tell(f"The kernel for packed rows is not used: {refusal}")
    return chosen


def flash_refusal(model: Any, probe: Sequence[Any], path: FastPath, autocast: Switch = nullcontext) -> str | None:
    """Why a training step of `model` cannot take the flash kernel of torch; None: it takes it."""
    return _refusal(model, probe, path, autocast, partial(sdpa_kernel, [SDPBackend.FLASH_ATTENTION]))


def _refusal(
    model: Any, probe: Sequence[Any], path: FastPath, autocast: Switch, kernels: Switch = nullcontext
) -> str | None:
    """What a step in training mode, dropout and all, complains of."""
    was_training, batch = model.training, path.collate(probe)
    moved = {name: value.to(model.device) if hasattr(value, "to") else value for name, value in batch.items()}
    model.train()
    try:
        with path.active(), torch.random.fork_rng(), autocast(), kernels():
            model(**moved, use_cache=False)
    except _REFUSALS as error:
        return str(error).splitlines()[0]
    finally:
        model.train(was_training)
    return None


@contextmanager
def _without_padding_check(model: Any) -> Iterator[None]:
    """transformers looks for padding in each batch without a mask, for which the host waits for the device."""
    before, model.config.pad_token_id = getattr(model.config, "pad_token_id", None), None
    try:
        yield
    finally:
        model.config.pad_token_id = before
