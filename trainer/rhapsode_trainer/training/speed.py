"""How fast training was: tokens a second, and the share of what the device could do."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

# Dense bf16 with fp32 sums, operations a second, from NVIDIA's data sheets.
_PEAKS = {
    "A100": 312e12,
    "H100 80GB HBM3": 989e12,
    "H200": 989e12,
    "B200": 2250e12,
    "L4": 121e12,
    "L40S": 362e12,
}


class Speed:
    """Time and steps of training alone: evaluating, saving and what precedes the first step do not count, nor do
    earlier attempts. `means` says by which ways the model was trained."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since: float | None = None
        self._before = 0.0
        self.steps = 0
        self.means: dict[str, Any] = {}

    def start(self) -> None:
        """Training begins, or goes on."""
        self._since = self._clock()

    def stop(self) -> None:
        """Training ends, or pauses."""
        self._before, self._since = self.seconds(), None

    def step_done(self) -> None:
        self.steps += 1

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What happens within the block does not count."""
        running = self._since is not None
        self.stop()
        try:
            yield
        finally:
            if running:
                self.start()

    def seconds(self) -> float:
        return self._before + (0.0 if self._since is None else self._clock() - self._since)

    def tokens_per_second(self, tokens_per_step: float) -> float | None:
        """None before the first step."""
        return self.steps * tokens_per_step / self.seconds() if self.steps and self.seconds() > 0 else None


def training_flops_per_token(model: Any, length: int) -> float:
    """Floating-point operations that one token takes, forward and backward: 6 for each parameter it is multiplied with,
    and attention over rows of `length` tokens (0: left out). After appendix B of Chowdhery et al. 2022, "PaLM"."""
    multiplied: dict[int, int] = {
        id(parameter): parameter.numel()
        for module in model.modules()
        if not isinstance(module, torch.nn.Embedding)
        for parameter in module.parameters(recurse=False)
    }
    width: int = model.config.num_hidden_layers * model.config.hidden_size
    return 6.0 * sum(multiplied.values()) + 12.0 * width * length


def peak_flops(device: str) -> float | None:
    """Of a CUDA device by its name; None for one that is not in the table."""
    name = device.removeprefix("NVIDIA ")
    found = [peak for known, peak in _PEAKS.items() if name == known or name.startswith((f"{known} ", f"{known}-"))]
    return found[0] if found else None


def device_name() -> str:
    """The name of the CUDA device, or cpu."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


def mfu(tokens_per_second: float | None, flops_per_token: float, device: str, devices: int = 1) -> float | None:
    """Model FLOPs utilisation: the share of the peak that went into the model. None where the peak is not known."""
    peak = peak_flops(device)
    return None if peak is None or tokens_per_second is None else tokens_per_second * flops_per_token / (peak * devices)


def training_record(
    speed: Speed,
    *,
    tokens_per_step: float,
    padding_share: float,
    flops_per_token: float,
    devices: int,
    seconds: Mapping[str, float],
) -> dict[str, Any]:
    """How training went, for the records of a version. Tokens are those that are not padding; `seconds` has one entry
    for each phase so far."""
    rate, device = speed.tokens_per_second(tokens_per_step), device_name()
    return {
        "device": device,
        "devices": devices,
        "tokens_per_second": rate,
        "tokens_per_step": tokens_per_step,
        "steps": speed.steps,
        "padding_share": padding_share,
        "mfu": mfu(rate, flops_per_token, device, devices),
        **speed.means,
        "seconds": dict(seconds),
    }


def describe(record: Mapping[str, Any]) -> str:
    """The record in one line, for people."""
    rate = record["tokens_per_second"]
    parts = ["no step" if rate is None else f"{rate:,.0f} tokens/s without padding"]
    parts.append(f"{record['padding_share']:.1%} padding")
    if record["mfu"] is not None:
        parts.append(f"{record['mfu']:.1%} of the peak of {record['device']}")
    ways = (f"{name} {record[name]}" for name in ("loss", "attention") if name in record)
    return ", ".join([*parts, *ways, *(["compiled"] if record.get("compiled") else [])])
