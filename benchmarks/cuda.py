"""The engine on one CUDA device against the goals for it: step times, tokens/s, kernels, graphs under load, cold start.

GPT-2 124M in bfloat16 with random weights (speed does not depend on them). One run takes a few minutes, writes
`results/cuda.json` and prints a table. Where there is no CUDA device it says so and measures nothing.
Usage: python -m benchmarks.cuda [--rows 1 64 256] [--seconds 10]
"""

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from rhapsode_server.engine.build import build_engine
from rhapsode_server.engine.cuda.runner import CudaRunner
from rhapsode_server.engine.engine import Engine
from rhapsode_server.engine.options import EngineOptions
from rhapsode_server.engine.request import EngineRequest, SamplingParameters
from torch.profiler import ProfilerActivity, profile
from transformers import GPT2Config, GPT2LMHeadModel

RESULTS = Path(__file__).parent / "results" / "cuda.json"
ROWS = (1, 64, 256)
LOADS = (0.5, 0.8, 0.95)
PROMPT_LENGTH = 64
TOKEN_IDS = 50257
GOAL_MICROSECONDS = {1: 500, 64: 350, 256: 700}
GOAL_COLD_START_SECONDS = 5
GOAL_SHARE_BY_GRAPH = 0.95
# A process that loads a model and gives a token, timed from its start; the first one also compiles the kernels.
COLD_START = "import sys; from benchmarks.cuda import give_first_token; give_first_token(sys.argv[1])"


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """Decode steps of so many rows, in microseconds: on the device alone, in the engine, of its scheduler alone.

    `limit` is the time in which the weights and the rows' keys and values can be copied.
    """

    rows: int
    device: float
    engine: float
    scheduler: float
    limit: float
    kernels: int

    @property
    def tokens_per_second(self) -> float:
        return self.rows / self.engine * 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenLoop:
    """Requests that arrive at random; times in milliseconds."""

    load: float
    tokens_per_second: float
    share_by_graph: float
    first_token_p50: float
    first_token_p99: float
    between_p50: float
    between_p99: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS, help="rows of the timed steps")
    parser.add_argument("--seconds", type=float, default=10, help="of each open loop (default: 10)")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("No CUDA device is here: nothing was measured.")
        return
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        GPT2LMHeadModel(GPT2Config()).save_pretrained(folder)
        cold_starts = [cold_start(folder, f"{folder}/triton") for _ in range(2)]
        engine = build_engine(options(folder, max(arguments.rows))).engine
        bandwidth = copy_bandwidth()
        steps = [measure_steps(engine, rows, bandwidth) for rows in arguments.rows]
        capacity = steps[-1].tokens_per_second
        loops = [measure_open_loop(engine, load, load * capacity, arguments.seconds) for load in LOADS]
    report(machine(bandwidth), cold_starts, steps, loops)


def options(folder: str, max_sequences: int) -> EngineOptions:
    return EngineOptions(
        path=folder,
        vocabulary_size=TOKEN_IDS,
        device="cuda:0",
        max_sequences=max_sequences,
        max_batch_tokens=max(2048, max_sequences),
        kv_cache_memory=max_sequences * 1040 * 2 * 12 * 768 * 2,
    )


def give_first_token(folder: str) -> None:
    engine = build_engine(options(folder, 64)).engine
    engine.submit(make_request(random.Random(0), 0, 3, 1))
    while not engine.step().events:
        pass


def cold_start(folder: str, kernel_cache: str) -> float:
    """Seconds from the start of a process to its first token."""
    began = time.perf_counter()
    environment = os.environ | {"TRITON_CACHE_DIR": kernel_cache}
    subprocess.run([sys.executable, "-c", COLD_START, folder], env=environment, check=True)
    return time.perf_counter() - began


def copy_bandwidth() -> float:
    """Bytes a second, read and written."""
    source = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.numel() / seconds_of(lambda: target.copy_(source), 20)


def measure_steps(engine: Engine, rows: int, bandwidth: float, num_steps: int = 200) -> Steps:
    """Half of the rows greedy, half of them sampled."""
    runner: Any = engine.runner
    assert isinstance(runner, CudaRunner)
    fill(engine, rows, num_tokens=num_steps + 200)
    in_engine = seconds_of(engine.step, num_steps)
    context = PROMPT_LENGTH + num_steps
    on_device, kernels = measure_graph(runner, rows, num_steps)
    in_scheduler = scheduler_seconds(engine)
    empty(engine)
    parameters = runner.eager.loaded.model.parameters()
    num_bytes = sum(parameter.numel() * parameter.element_size() for parameter in parameters)
    num_bytes += rows * context * runner.eager.kv_cache.bytes_per_token(0)
    return Steps(
        rows=rows,
        device=on_device * 1e6,
        engine=in_engine * 1e6,
        scheduler=in_scheduler * 1e6,
        limit=num_bytes / bandwidth * 1e6,
        kernels=kernels,
    )


def fill(engine: Engine, rows: int, *, num_tokens: int) -> None:
    """With requests, until all of them decode."""
    generator = random.Random(rows)
    for request_id in range(rows):
        engine.submit(make_request(generator, request_id, PROMPT_LENGTH, num_tokens))
    while engine.step().stats.batch_tokens != rows:
        pass


def empty(engine: Engine) -> None:
    for request_id in list(engine.scheduler.running):
        engine.cancel(request_id)
    while engine.has_work:
        engine.step()


@torch.inference_mode()
def measure_graph(runner: CudaRunner, rows: int, num_steps: int) -> tuple[float, int]:
    """Seconds of a step on the device, from where the rows are now, and its kernels. They then go on from there."""
    decoder = runner.decoder
    size = next(size for size in sorted(decoder._graphs) if size >= rows)
    places = decoder._state_4R.clone()
    seconds, kernels = seconds_of(decoder._graphs[size].replay, num_steps), count_kernels(decoder._graphs[size].replay)
    decoder._state_4R.copy_(places)
    return seconds, kernels


def scheduler_seconds(engine: Engine) -> float:
    """Of the host's work for a step without the runner's: what the device waits for if it is the faster one."""
    while engine._in_flight:
        engine._complete_oldest()
    seconds = []
    for _ in range(20):
        began = time.perf_counter()
        batch = engine.scheduler.schedule()
        planned = time.perf_counter() - began
        result = engine.runner.execute(batch).read()
        began = time.perf_counter()
        engine.scheduler.update(batch, result)
        seconds.append(planned + time.perf_counter() - began)
    return statistics.median(seconds)


def count_kernels(work: Callable[[], Any]) -> int:
    """How many a piece of work runs on the device, copies and fills included."""
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiled:
        work()
        torch.cuda.synchronize()
    return sum(event.device_type.name == "CUDA" for event in profiled.events())


def measure_open_loop(engine: Engine, load: float, tokens_per_second: float, seconds: float) -> OpenLoop:
    """Prompts of 16 to 256 tokens, completions of 16 to 128, arriving so that this is what they ask for."""
    choices, decoder = random.Random(0), engine.runner.decoder  # type: ignore[attr-defined]
    rate = tokens_per_second / 72
    arrivals, now = list[float](), 0.0
    while (now := now + choices.expovariate(rate)) < seconds:
        arrivals.append(now)
    requests = [
        make_request(choices, number, int(16 * 16 ** choices.betavariate(4, 4)), choices.randint(16, 128))
        for number in range(len(arrivals))
    ]
    before = decoder.num_rows, decoder.num_rows_by_graph
    times = replay_arrivals(engine, requests, arrivals)
    num_rows, by_graph = decoder.num_rows - before[0], decoder.num_rows_by_graph - before[1]
    firsts = [(tokens[0] - arrived) * 1000 for tokens, arrived in zip(times, arrivals, strict=True)]
    between = [(late - early) * 1000 for tokens in times for early, late in pairwise(tokens)]
    return OpenLoop(
        load=load,
        tokens_per_second=sum(map(len, times)) / max(tokens[-1] for tokens in times),
        share_by_graph=by_graph / num_rows,
        first_token_p50=statistics.median(firsts),
        first_token_p99=percentile(firsts, 99),
        between_p50=statistics.median(between),
        between_p99=percentile(between, 99),
    )


def replay_arrivals(engine: Engine, requests: Sequence[EngineRequest], arrivals: Sequence[float]) -> list[list[float]]:
    """When the tokens of each request came, in seconds from the start."""
    times: list[list[float]] = [[] for _ in requests]
    began, next_one = time.perf_counter(), 0
    while next_one < len(requests) or engine.has_work:
        now = time.perf_counter() - began
        while next_one < len(requests) and arrivals[next_one] <= now:
            engine.submit(requests[next_one])
            next_one += 1
        if engine.has_work:
            result, now = engine.step(), time.perf_counter() - began
            for event in result.events:
                times[event.request_id].append(now)
    return times


def make_request(generator: random.Random, request_id: int, prompt_length: int, num_tokens: int) -> EngineRequest:
    return EngineRequest(
        request_id=request_id,
        prompt_ids=tuple(generator.randrange(TOKEN_IDS) for _ in range(prompt_length)),
        max_new_tokens=num_tokens,
        sampling=SamplingParameters(temperature=float(request_id % 2), seed=request_id),
    )


def seconds_of(work: Callable[[], Any], count: int) -> float:
    """The mean of so many in a row."""
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(count):
        work()
    torch.cuda.synchronize()
    return (time.perf_counter() - began) / count


def percentile(values: Sequence[float], percent: int) -> float:
    return statistics.quantiles(values, n=100)[percent - 1]


def machine(bandwidth: float) -> dict[str, str]:
    return {
        "device": torch.cuda.get_device_name(),
        "copy bandwidth": f"{bandwidth / 1e12:.2f} TB/s",
        "torch": torch.__version__,
        "python": platform.python_version(),
        "processors": str(os.cpu_count()),
    }


def report(
    facts: dict[str, str], cold_starts: Sequence[float], steps: Sequence[Steps], loops: Sequence[OpenLoop]
) -> None:
    results = {"machine": facts, "cold_start_seconds": cold_starts, "steps": list(map(asdict, steps))}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results | {"open_loops": list(map(asdict, loops))}, indent=2) + "\n")
    print(", ".join(f"{name} {value}" for name, value in facts.items()))
    print("\n| rows | device us | engine us | goal us | scheduler us | limit us | kernels | tokens/s |")
    print("|---|---|---|---|---|---|---|---|")
    for step in steps:
        goal = GOAL_MICROSECONDS.get(step.rows, "")
        times = f"{step.device:.0f} | {step.engine:.0f} | {goal} | {step.scheduler:.0f} | {step.limit:.0f}"
        print(f"| {step.rows} | {times} | {step.kernels} | {step.tokens_per_second:,.0f} |")
    print(f"\n| load | tokens/s | rows by graph (goal {GOAL_SHARE_BY_GRAPH:.0%}) | first token ms | between ms |")
    print("|---|---|---|---|---|")
    for loop in loops:
        first_token = f"{loop.first_token_p50:.1f} / {loop.first_token_p99:.1f}"
        between = f"{loop.between_p50:.2f} / {loop.between_p99:.2f}"
        share = f"{loop.share_by_graph:.1%}"
        print(f"| {loop.load:.0%} | {loop.tokens_per_second:,.0f} | {share} | {first_token} | {between} |")
    first, second = cold_starts
    print(f"\ncold start to first token: {first:.1f} s, with kernels compiled before {second:.1f} s", end=" ")
    print(f"(goal {GOAL_COLD_START_SECONDS} s)")


if __name__ == "__main__":
    main()
