"""What the front-end spends on a token: a fake engine offers tokens to the real front-end, and real callers read them.

The readers are, from less to more of the front-end:

    tokens   take what the worker's messages bring to each stream
    events   a call without gRPC: text, stop strings, metrics, serialised messages
    gRPC     streaming calls of another process over loopback

Processor time of the front-end's process, all threads (`us/token`), and of the event loop's thread alone. Usage:

    python -m benchmarks.frontend [--seconds S] [--streams N ...] [--rates R ...] [--readers KIND ...]
"""

import argparse
import asyncio
import json
import os
import platform
import random
import socket
import statistics
import string
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import grpc.aio
import tokenizers
from rhapsode.v1 import generation_pb2 as pb
from rhapsode.v1.generation_pb2_grpc import GenerationServiceStub
from rhapsode_server.config import ServerConfig
from rhapsode_server.engine.engine import EngineStats
from rhapsode_server.engine.options import EngineOptions
from rhapsode_server.metrics import Metrics
from rhapsode_server.models.limits import Limits
from rhapsode_server.models.served import GenerationDefaults, ServedVersion
from rhapsode_server.rpc.call import Call, current_call
from rhapsode_server.rpc.generation import GenerationService
from rhapsode_server.rpc.health import HealthService
from rhapsode_server.rpc.server import SERVICES, Server
from rhapsode_server.text.tokenizer import Tokenizer
from rhapsode_server.workers.launcher import Launched, Launcher
from rhapsode_server.workers.worker import Worker
from tokenizers import decoders, models, pre_tokenizers

from benchmarks.fake_engine import VOCABULARY, message_cost

RESULTS = Path(__file__).parent / "results"
STREAMS_PER_CHANNEL = 32
READERS = ("tokens", "events", "gRPC")
STOPS = ("\n\n", "END")


def main() -> None:
    if len(sys.argv) > 1 and sys.argv[1] in ROLES:
        ROLES[sys.argv[1]](json.loads(sys.argv[2]))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each case (default: 3)")
    parser.add_argument("--streams", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--rates", type=int, nargs="+", default=[1_000, 10_000, 100_000], help="tokens/s offered")
    parser.add_argument("--readers", choices=READERS, nargs="+", default=list(READERS))
    asked = parser.parse_args()
    rows = [
        measured({"reader": reader, "streams": streams, "offered": rate, "seconds": asked.seconds})
        for reader in asked.readers
        for streams in asked.streams
        for rate in asked.rates
    ]
    report(rows, [message_cost(streams) for streams in asked.streams])


def measured(case: dict[str, Any]) -> dict[str, Any]:
    """In a front-end of its own."""
    command = [sys.executable, "-m", "benchmarks.frontend", "front-end", json.dumps(case)]
    return {**case, **json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)}


# The front-end.


def run_front_end(case: dict[str, Any]) -> None:
    print(json.dumps(asyncio.run(front_end(case))))


async def front_end(case: dict[str, Any]) -> dict[str, Any]:
    num_tokens = max(2, round(case["seconds"] * case["offered"] / case["streams"]))
    metrics = Metrics()
    meter = Meter(case["streams"], metrics)
    worker = make_worker(case, meter)
    await worker.start()
    models = OneModel(served_by(worker))
    read = {"tokens": read_tokens, "events": read_events, "gRPC": read_grpc}[case["reader"]]
    seen = await read(models, metrics, case["streams"], num_tokens)
    result = meter.result(seen, case["streams"] * num_tokens)
    await worker.stop()
    return result


class Meter:
    """Begins with the first step that has all streams, so that what a call costs at its start does not count."""

    def __init__(self, streams: int, metrics: Metrics) -> None:
        self._streams = streams
        self._metrics = metrics
        self._began: tuple[float, float, float] | None = None

    def note_step(self, stats: EngineStats, seconds: float) -> None:
        if self._began is None and stats.running == self._streams:
            self._began = self._now()
        self._metrics.observe_step("fake", 1, stats, seconds)

    def result(self, seen: "Seen", num_tokens: int) -> dict[str, Any]:
        assert self._began
        wall, cpu, loop = (now - then for now, then in zip(self._now(), self._began, strict=True))
        gaps = sorted(seen.gaps) or [0.0]
        return {
            "achieved": num_tokens / wall,
            "us_per_token": cpu / num_tokens * 1e6,
            "loop_us_per_token": loop / num_tokens * 1e6,
            "tokens_per_message": num_tokens / seen.num_messages,
            "gap_p50_ms": statistics.median(gaps) * 1e3,
            "gap_p99_ms": gaps[int(len(gaps) * 0.99)] * 1e3,
        }

    @staticmethod
    def _now() -> tuple[float, float, float]:
        return time.perf_counter(), time.process_time(), time.thread_time()


@dataclass(slots=True)
class Seen:
    """Messages that brought tokens, and the seconds between those of a stream."""

    num_messages: int = 0
    gaps: list[float] = field(default_factory=list)
    _last: dict[int, float] = field(default_factory=dict)

    def note(self, stream: int) -> None:
        now = time.perf_counter()
        self.num_messages += 1
        if stream in self._last:
            self.gaps.append(now - self._last[stream])
        self._last[stream] = now


@dataclass
class OneModel:
    served: ServedVersion

    def resolve(self, model: str, **selector: object) -> ServedVersion:
        return self.served


class FakeLauncher(Launcher):
    """Launches fake engines."""

    case: dict[str, Any]

    def launch(self) -> Launched:
        ours, theirs = socket.socketpair()
        with theirs:
            case = json.dumps({**self.case, "socket": theirs.fileno()})
            engine = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.fake_engine", case], pass_fds=[theirs.fileno()]
            )
        return Launched(engine, ours, gives_way=False)


def make_worker(case: dict[str, Any], meter: Meter) -> Worker:
    launcher = FakeLauncher(keep_standby=False)
    launcher.case = case
    return Worker(
        options=EngineOptions(path="", vocabulary_size=VOCABULARY, device="cpu", max_sequences=case["streams"]),
        max_queued_requests=case["streams"],
        max_queued_tokens=10**9,
        launcher=launcher,
        load_timeout=60.0,
        step_timeout=60.0,
        on_step=meter.note_step,
        on_stage=lambda name: None,
        on_lost=lambda reason: None,
        on_exit=lambda reason: None,
    )


def served_by(worker: Worker) -> ServedVersion:
    limits = Limits(
        context_length=10**7,
        vocabulary_size=VOCABULARY,
        max_sequences=worker.options.max_sequences,
        max_queued_requests=worker.max_queued_requests,
        max_queued_tokens=worker.max_queued_tokens,
    )
    tokenizer = Tokenizer(make_tokenizer())
    defaults = GenerationDefaults(eos_token_ids=(0,))
    return ServedVersion(
        model="fake", version=1, tokenizer=tokenizer, defaults=defaults, limits=limits, engine=cast(Any, worker)
    )


def make_tokenizer() -> tokenizers.Tokenizer:
    """As many tokens as GPT-2 has: bytes, and words of letters with a space before them."""
    drawn, alphabet = random.Random(0), sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = dict.fromkeys(alphabet)
    while len(pieces) < VOCABULARY:
        pieces["Ġ" + "".join(drawn.choices(string.ascii_lowercase, k=drawn.randint(2, 6)))] = None
    inner = tokenizers.Tokenizer(models.BPE(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    return inner


def request(num_tokens: int) -> pb.GenerateRequest:
    return pb.GenerateRequest(
        prompt="the sea",
        stopping=pb.StoppingCriteria(max_new_tokens=num_tokens, stop_strings=STOPS),
        output=pb.OutputOptions(token_ids=True),
    )


async def read_tokens(models: OneModel, metrics: Metrics, streams: int, num_tokens: int) -> Seen:
    seen = Seen()

    async def read(number: int) -> None:
        async for chunk in models.served.engine.submit(prompt_ids=(1, 2), max_new_tokens=num_tokens):
            if chunk.token_ids:
                seen.note(number)

    await asyncio.gather(*map(read, range(streams)))
    return seen


async def read_events(models: OneModel, metrics: Metrics, streams: int, num_tokens: int) -> Seen:
    seen, service = Seen(), GenerationService(cast(Any, models), metrics, 16)

    class Context:
        def __init__(self, number: int) -> None:
            self.number = number

        async def send_initial_metadata(self, metadata: object) -> None: ...

        async def write(self, message: pb.GenerateStreamResponse) -> None:
            message.SerializeToString()
            if message.HasField("delta"):
                seen.note(self.number)

    async def read(number: int) -> None:
        current_call.set(Call(method="GenerateStream"))
        await service.GenerateStream(request(num_tokens), cast(Any, Context(number)))

    await asyncio.gather(*map(read, range(streams)))
    return seen


async def read_grpc(models: OneModel, metrics: Metrics, streams: int, num_tokens: int) -> Seen:
    config = ServerConfig(models=Path(), address="127.0.0.1:0", admin_address=None)
    server = Server(config, cast(Any, models), metrics, HealthService(SERVICES))
    await server.start()
    case = json.dumps({"address": server.address, "streams": streams, "num_tokens": num_tokens})
    command = [sys.executable, "-m", "benchmarks.frontend", "callers", case]
    callers = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
    output, _ = await callers.communicate()
    await server.stop()
    return Seen(**json.loads(output))


# The callers.


def run_callers(case: dict[str, Any]) -> None:
    seen = asyncio.run(call(case))
    print(json.dumps({"num_messages": seen.num_messages, "gaps": seen.gaps}))


async def call(case: dict[str, Any]) -> Seen:
    seen, options = Seen(), [("grpc.use_local_subchannel_pool", 1)]
    channels = [
        grpc.aio.insecure_channel(case["address"], options) for _ in range(-(-case["streams"] // STREAMS_PER_CHANNEL))
    ]

    async def read(number: int) -> None:
        num_read, stub = 0, GenerationServiceStub(channels[number % len(channels)])
        async for message in cast(Any, stub).GenerateStream(request(case["num_tokens"])):
            if message.delta.token_ids:
                num_read += len(message.delta.token_ids)
                seen.note(number)
        assert num_read == case["num_tokens"]

    await asyncio.gather(*map(read, range(case["streams"])))
    return seen


ROLES: dict[str, Callable[[dict[str, Any]], None]] = {
    "front-end": run_front_end,
    "callers": run_callers,
}


def report(rows: list[dict[str, Any]], messages: list[dict[str, float]]) -> None:
    machine = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
    busy = f"load average {os.getloadavg()[1]:.1f}"
    lines = [
        "| readers | streams | offered tok/s | achieved tok/s | us/token | event loop us/token | tokens/message "
        "| between messages p50, p99 ms |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row['reader']} | {row['streams']} | {row['offered']:,} | {row['achieved']:,.0f} "
            f"| {row['us_per_token']:.2f} | {row['loop_us_per_token']:.2f} | {row['tokens_per_message']:.1f} "
            f"| {row['gap_p50_ms']:.1f}, {row['gap_p99_ms']:.1f} |"
        )
    lines += ["", "| a step's message: tokens | engine's thread us | front-end us |", "|---|---|---|"]
    lines += [f"| {row['streams']} | {row['send_us']:.0f} | {row['read_us']:.0f} |" for row in messages]
    text = f"Processor time of the front-end for a token, {machine}, {busy}\n\n" + "\n".join(lines) + "\n"
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "frontend.md").write_text(text)
    (RESULTS / "frontend.json").write_text(
        json.dumps({"machine": machine, "busy": busy, "rows": rows, "messages": messages}, indent=2) + "\n"
    )
    print(text)


if __name__ == "__main__":
    main()
