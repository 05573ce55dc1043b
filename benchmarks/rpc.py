"""What the front-end spends on a request before the engine sees it: parsing, validation, conversion, tokenising.

Microseconds, the median of many. Usage: python benchmarks/rpc.py
"""

import asyncio
import json
import os
import platform
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import tokenizers
from rhapsode.v1 import generation_pb2 as pb
from rhapsode_server.models.limits import Limits
from rhapsode_server.models.served import GenerationDefaults, ServedVersion
from rhapsode_server.rpc.prepare import prepare
from rhapsode_server.rpc.requests.generate import generation_request
from rhapsode_server.text.tokenizer import Tokenizer
from rhapsode_server.workers.stream import TokenStream
from tokenizers import decoders, models, pre_tokenizers

RESULTS = Path(__file__).parent / "results"
ROUNDS = 2000
DEFAULT_MAX_NEW_TOKENS = 256
WORDS = " ".join(["the sea and the stars above it"] * 9)

REQUESTS = {
    "a prompt alone": pb.GenerateRequest(prompt=WORDS),
    "an ordinary request": pb.GenerateRequest(
        prompt=WORDS,
        sampling=pb.SamplingParameters(temperature=0.8, top_p=0.95, top_k=40, seed=7),
        stopping=pb.StoppingCriteria(max_new_tokens=128, stop_strings=["\n\n", "END"]),
        output=pb.OutputOptions(token_ids=True),
    ),
    "every field": pb.GenerateRequest(
        prompt=WORDS,
        sampling=pb.SamplingParameters(
            temperature=0.8,
            top_p=0.95,
            top_k=40,
            min_p=0.05,
            typical_p=0.9,
            repetition_penalty=1.1,
            presence_penalty=0.1,
            frequency_penalty=0.1,
            seed=7,
            logit_bias=dict.fromkeys(range(10), 1.0),
            allowed_token_ids=range(100),
        ),
        stopping=pb.StoppingCriteria(max_new_tokens=128, min_new_tokens=3, stop_strings=["END"], stop_token_ids=[5]),
        output=pb.OutputOptions(token_ids=True, logprobs=True, top_logprobs=5, prompt_logprobs=True, echo=True),
        constraint=pb.Constraint(regex="[a-z ]+"),
    ),
}


class NoEngine:
    """Takes part in nothing that is measured."""

    def hold(self) -> AbstractContextManager[None]:
        raise NotImplementedError

    def submit(self, *, prompt_ids: Sequence[int], **fields: object) -> TokenStream:
        raise NotImplementedError

    def new_group(self) -> int:
        raise NotImplementedError

    def predicted_wait(self, num_tokens: int, priority: int = 0) -> float:
        raise NotImplementedError


def main() -> None:
    version = make_version()
    rows = [measure(name, message, version) for name, message in REQUESTS.items()]
    report(rows)


def make_version() -> ServedVersion:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = tokenizers.Tokenizer(models.BPE(vocab={character: i for i, character in enumerate(alphabet)}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    limits = Limits(
        context_length=1024, vocabulary_size=256, max_sequences=64, max_queued_requests=256, max_queued_tokens=2**18
    )
    return ServedVersion(
        model="poems",
        version=1,
        tokenizer=Tokenizer(inner),
        defaults=GenerationDefaults(eos_token_ids=(0,)),
        limits=limits,
        engine=NoEngine(),
    )


def measure(name: str, message: pb.GenerateRequest, version: ServedVersion) -> dict[str, object]:
    raw = message.SerializeToString()
    return {
        "request": name,
        "parse": median(lambda: pb.GenerateRequest.FromString(raw)),
        "validate and convert": median(lambda: generation_request(message, version, DEFAULT_MAX_NEW_TOKENS)),
        "with the tokens": asyncio.run(amedian(lambda: prepare(message, version, DEFAULT_MAX_NEW_TOKENS))),
    }


def median(run: Callable[[], object]) -> float:
    times = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return statistics.median(times) * 1e6


async def amedian(run: Callable[[], Awaitable[object]]) -> float:
    times = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        await run()
        times.append(time.perf_counter() - began)
    return statistics.median(times) * 1e6


def report(rows: list[dict[str, object]]) -> None:
    machine = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
    names = list(rows[0])
    lines = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    for row in rows:
        cells = [value if isinstance(value, str) else f"{value:.1f} us" for value in row.values()]
        lines.append(f"| {' | '.join(cells)} |")
    text = f"The front-end's work on a request of {len(WORDS)} characters, {machine}\n\n" + "\n".join(lines) + "\n"
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "rpc.md").write_text(text)
    (RESULTS / "rpc.json").write_text(json.dumps({"machine": machine, "rows": rows}, indent=2) + "\n")
    print(text)


if __name__ == "__main__":
    main()
