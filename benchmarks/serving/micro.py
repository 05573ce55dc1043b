"""The engine's own steps, without requests coming and going: how long a decode step takes, and attention in it."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from rhapsode_server.engine.attention import ForwardBatch
from rhapsode_server.engine.build import build_engine
from rhapsode_server.engine.engine import Engine
from rhapsode_server.engine.request import EngineRequest
from rhapsode_server.engine.row_attention import RowBatch

from benchmarks.serving.limits import Shape, read_bandwidth, synchronize
from benchmarks.serving.systems import Setting
from benchmarks.serving.systems.engine import engine_options

Attention = Callable[..., ForwardBatch]

WARM_UP_STEPS = 3
MOST_TOKENS = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeStep:
    """Seconds, medians of a few steps. `kernels` of the device, None on a CPU."""

    rows: int
    context: int
    seconds: float
    kernels: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionStep:
    """Seconds of the attention of all layers in a decode step: the engine's, row by row, and a read of what it must."""

    rows: int
    context: int
    seconds: float
    row_by_row_seconds: float
    read_seconds: float


def decode_steps(setting: Setting, rows: Sequence[int], context: int, steps: int) -> list[DecodeStep]:
    engine = build_engine(engine_options(setting)).engine
    return [decode_step(engine, setting.device, count, context, steps) for count in rows]


def decode_step(engine: Engine, device: str, rows: int, context: int, steps: int) -> DecodeStep:
    context = decode_only(engine, rows, context)
    seconds = [step_seconds(engine, device) for _ in range(steps)]
    kernels = count_kernels(engine) if device != "cpu" else None
    finish(engine, rows)
    return DecodeStep(rows=rows, context=context + steps // 2, seconds=statistics.median(seconds), kernels=kernels)


def decode_only(engine: Engine, rows: int, context: int) -> int:
    """Until the prompts of all rows are done, and a few steps more. Returns the rows' mean context by then."""
    for number in range(rows):
        prompt = tuple(torch.randint(1, 256, (context,), generator=torch.Generator().manual_seed(number)).tolist())
        engine.submit(EngineRequest(request_id=number, prompt_ids=prompt, max_new_tokens=MOST_TOKENS - context))
    begun, num_tokens, steps_left = set[int](), 0, WARM_UP_STEPS
    while steps_left:
        steps_left -= len(begun) == rows
        events = engine.step().events
        begun |= {event.request_id for event in events}
        num_tokens += len(events)
    assert engine.step().stats.running == rows, "they do not fit beside one another"
    return context + num_tokens // rows + 1


def step_seconds(engine: Engine, device: str) -> float:
    began = time.perf_counter()
    engine.step()
    synchronize(device)
    return time.perf_counter() - began


def count_kernels(engine: Engine) -> int:
    """What one step does on the device, copies included; those of a graph count each."""
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        engine.step()
        torch.cuda.synchronize()
    return sum(event.device_type.name == "CUDA" for event in profile.events())


def finish(engine: Engine, rows: int) -> None:
    for request_id in range(rows):
        engine.cancel(request_id)
    while engine.has_work:
        engine.step()


def attention_steps(
    setting: Setting, rows: int, contexts: Sequence[int], steps: int, shape: Shape
) -> list[AttentionStep]:
    """On the CPU, where attention is a call of its own."""
    engine = build_engine(engine_options(setting)).engine
    chosen = cast(Any, engine.runner).attention
    return [attention_step(engine, chosen, setting, rows, context, steps, shape) for context in contexts]


def attention_step(
    engine: Engine, chosen: Attention, setting: Setting, rows: int, context: int, steps: int, shape: Shape
) -> AttentionStep:
    seconds, reached = attention_seconds(engine, chosen, rows, context, steps)
    row_by_row_seconds, _ = attention_seconds(engine, RowBatch, rows, context, steps)
    kv_bytes = rows * reached * shape.kv_bytes_per_token(setting.precision)
    return AttentionStep(
        rows=rows,
        context=reached,
        seconds=seconds,
        row_by_row_seconds=row_by_row_seconds,
        read_seconds=kv_bytes / read_bandwidth(setting.device, kv_bytes),
    )


def attention_seconds(engine: Engine, attention: Attention, rows: int, context: int, steps: int) -> tuple[float, int]:
    """The median of a few decode steps, and the mean context in them."""
    watch = Stopwatch()
    runner = cast(Any, engine.runner)
    runner.attention = lambda *arguments: Watched(attention(*arguments), watch)
    runner.tapes = None  # which have the attention in them
    reached = decode_only(engine, rows, context) + steps // 2
    seconds = []
    for _ in range(steps):
        watch.seconds = 0.0
        engine.step()
        seconds.append(watch.seconds)
    finish(engine, rows)
    return statistics.median(seconds), reached


@dataclass(slots=True)
class Stopwatch:
    seconds: float = 0.0


class Watched:
    """A ForwardBatch whose attention is timed."""

    def __init__(self, batch: ForwardBatch, watch: Stopwatch) -> None:
        self._batch, self._watch = batch, watch

    @property
    def num_layers_seen(self) -> int:
        return self._batch.num_layers_seen

    def attend(self, *arguments: Any) -> torch.Tensor:
        began = time.perf_counter()
        output = self._batch.attend(*arguments)
        self._watch.seconds += time.perf_counter() - began
        return output
