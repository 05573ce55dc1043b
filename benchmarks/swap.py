"""What live streams notice while another version is made ready beside them.

A worker decodes `NUM_STREAMS` streams without end. Meanwhile another process is started from nothing, a standby imports
what it needs, and a worker is made ready from that standby. For each: the time between two tokens of a stream, beside
what it was without a neighbour, just before and just after. The model has random weights and GPT-2's size.
"""

import argparse
import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from rhapsode_server.engine.options import EngineOptions
from rhapsode_server.engine.request import SamplingParameters
from rhapsode_server.workers.launcher import Launcher
from rhapsode_server.workers.worker import Worker

NUM_STREAMS = 8
PROMPT = tuple(range(100, 116))
NUM_TOKENS = 200
QUIET_SECONDS = 15.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=12, help="of the model: 12 are GPT-2, 6 distilgpt2")
    parser.add_argument("--threads", type=int, default=0, help="of a worker's computation; 0: all")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        vocabulary_size = make_version(Path(folder), options.layers)
        engine = EngineOptions(path=folder, vocabulary_size=vocabulary_size, device="cpu", threads=options.threads)
        asyncio.run(measure(engine, options.rounds))


def make_version(folder: Path, num_layers: int) -> int:
    """Returns the size of its vocabulary. transformers is imported in this call only: front-ends do without."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(n_layer=num_layers)
    GPT2LMHeadModel(config).save_pretrained(folder)
    return int(config.vocab_size)


async def measure(options: EngineOptions, num_rounds: int) -> None:
    launcher = Launcher(keep_standby=True)
    gaps = Gaps()
    live = make_worker(options, launcher, gaps)
    await live.start()
    async with streaming(live):
        await asyncio.sleep(2)
        for _ in range(num_rounds):
            quiet = await gaps.during(asyncio.sleep(QUIET_SECONDS))
            for name, work in (
                ("started from nothing", start_and_stop(options, launcher)),
                ("standby imports", import_standby(launcher)),
                ("started from standby", start_and_stop(options, launcher)),
            ):
                began = time.perf_counter()
                busy = await gaps.during(work)
                seconds = time.perf_counter() - began
                after = await gaps.during(asyncio.sleep(QUIET_SECONDS))
                report(name, seconds, busy, [*quiet, *after])
                quiet = after
    await live.stop()
    await launcher.stop()


class Gaps:
    """Seconds between the ends of two steps; every stream has a token in each."""

    def __init__(self) -> None:
        self._gaps: list[float] = []
        self._last: float | None = None

    def note_step(self, *_: object) -> None:
        now = time.perf_counter()
        if self._last is not None:
            self._gaps.append(now - self._last)
        self._last = now

    async def during(self, work: Awaitable[None]) -> list[float]:
        self._gaps = []
        await work
        return self._gaps


def make_worker(options: EngineOptions, launcher: Launcher, gaps: Gaps | None = None) -> Worker:
    return Worker(
        options=options,
        max_queued_requests=100,
        max_queued_tokens=10**6,
        launcher=launcher,
        load_timeout=600.0,
        step_timeout=60.0,
        on_step=gaps.note_step if gaps else lambda *_: None,
        on_stage=lambda _: None,
        on_lost=lambda reason: print(f"lost: {reason}"),
        on_exit=lambda _: None,
    )


async def start_and_stop(options: EngineOptions, launcher: Launcher) -> None:
    worker = make_worker(options, launcher)
    await worker.start()
    await worker.stop()


async def import_standby(launcher: Launcher) -> None:
    ready = asyncio.Event()
    launcher.on_change = ready.set
    launcher.refill()
    await ready.wait()
    assert launcher.standby_ready


@asynccontextmanager
async def streaming(worker: Worker) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(stream_without_end(worker, number)) for number in range(NUM_STREAMS)]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def stream_without_end(worker: Worker, number: int) -> None:
    # The first ones differ in length, so that the streams do not all begin together ever after.
    num_tokens = NUM_TOKENS * (number + 1) // NUM_STREAMS
    while True:
        stream = worker.submit(
            prompt_ids=PROMPT,
            max_new_tokens=num_tokens,
            sampling=SamplingParameters(temperature=1.0, seed=number),
            stop_token_ids=frozenset(),
        )
        async for _ in stream:
            pass
        num_tokens = NUM_TOKENS


def report(name: str, seconds: float, busy: Sequence[float], quiet: Sequence[float]) -> None:
    figures = [
        f"{label} {1e3 * quantile(busy, share):6.1f} ms, quiet {1e3 * quantile(quiet, share):6.1f} "
        f"({quantile(busy, share) / quantile(quiet, share):4.2f}x)"
        for label, share in (("p50", 0.5), ("p99", 0.99))
    ]
    print(f"{name:20} {seconds:6.1f} s  {len(busy):5} gaps  {'  '.join(figures)}", flush=True)


def quantile(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


if __name__ == "__main__":
    main()
