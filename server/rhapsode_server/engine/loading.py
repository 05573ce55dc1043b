"""From a version folder to the model as it will serve, its weights compared with the canary before they are reduced."""

from pathlib import Path

import torch

from rhapsode_server.engine.canary import WEIGHTS_BOUND, compare_weights
from rhapsode_server.engine.canary_file import Canary
from rhapsode_server.engine.host_memory import host_memory
from rhapsode_server.engine.kernels.norm import replace_norms
from rhapsode_server.engine.linears import pack, settle, trim
from rhapsode_server.engine.loader import LoadedModel, load_model, move
from rhapsode_server.engine.memory import num_parameters
from rhapsode_server.engine.quantize import quantize
from rhapsode_server.engine.refusal import LOAD_FAILED, ModelRefused
from rhapsode_server.engine.system import return_freed_memory

_CPU = torch.device("cpu")


def load_checked(
    path: Path, *, device: torch.device, dtype: torch.dtype, quantization: str, canary: Canary | None
) -> tuple[LoadedModel, str]:
    """The model, and what to say of the comparison. Raises ModelRefused.

    They are compared in float32 on the CPU, where they were recorded; what serves in a reduced type is then loaded once
    more, because a cast would reduce tensors that stay in float32, such as the frequencies of rotary positions.
    """
    if quantization == "int8" and (device.type, dtype) != ("cpu", torch.float32):
        detail = f"--quantization int8 is for --device cpu --dtype float32, not for {device} and {dtype}"
        raise ModelRefused(LOAD_FAILED, detail)
    if dtype != torch.float32:
        note = _compare_apart(path, canary)
        return load_model(path, device=device, dtype=dtype), note
    exact = load_model(path, device=_CPU, dtype=dtype)
    note = _compare(exact, canary)
    return move(exact, device) if device.type != "cpu" else _made_fast(exact, quantization), note


def _made_fast(exact: LoadedModel, quantization: str) -> LoadedModel:
    fast = quantize(exact) if quantization == "int8" else pack(exact)
    trim(fast.model)
    replace_norms(fast.model)
    settle(fast.model)
    return_freed_memory()
    return fast


def _compare_apart(path: Path, canary: Canary | None) -> str:
    if canary is None:
        return ""
    needed, free = num_parameters(path) * torch.float32.itemsize, host_memory().free
    if needed > free:
        return f"weights not compared in float32: that needs {needed:,} bytes of host memory, {free:,} are free"
    return _compare(load_model(path, device=_CPU, dtype=torch.float32), canary)


def _compare(exact: LoadedModel, canary: Canary | None) -> str:
    if canary is None:
        return ""
    return f"weights in float32 off by {compare_weights(canary, exact):.1e} nats (bound {WEIGHTS_BOUND:g})"
