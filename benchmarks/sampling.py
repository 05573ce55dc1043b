"""What choosing the next tokens costs beside the decode step that it follows, alternating in one process.

GPT-2 124M with random weights, 16 sequences of 100 tokens, a vocabulary of 50,257. Random weights give nearly flat
logits, so two more kinds stand beside: one as uneven as a language model's, one very sharp. The decode step is the
engine's forward alone. Times are processor time, which other programs do not disturb much.
Usage: python benchmarks/sampling.py [--rounds N] [--threads N]
"""

import argparse
import json
import platform
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rhapsode_server.engine.batch import Draw, Row
from rhapsode_server.engine.loader import load_model
from rhapsode_server.engine.request import SamplingParameters
from rhapsode_server.engine.runner import ModelRunner
from rhapsode_server.engine.sampler import sample
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

RESULTS = Path(__file__).parent / "results"
NUM_ROWS, LENGTH, VOCABULARY = 16, 100, 50_257
HISTORY = tuple(random.Random(0).choices(range(VOCABULARY), k=LENGTH))

# What every row asks for, and the largest share of a decode step that it may cost, if there is one.
SETTINGS: dict[str, tuple[dict[str, Any], float | None]] = {
    "nothing (greedy)": ({}, 0.03),
    "temperature 1": ({"temperature": 1.0}, 0.03),
    "temperature 0.8, top_p 0.95": ({"temperature": 0.8, "top_p": 0.95}, 0.10),
    "temperature 0.8, min_p 0.05": ({"temperature": 0.8, "min_p": 0.05}, None),
    "temperature 0.8, top_k 50": ({"temperature": 0.8, "top_k": 50}, None),
    "temperature 0.8, top_k 50, top_p 0.95": ({"temperature": 0.8, "top_k": 50, "top_p": 0.95}, None),
    "temperature 0.8, typical_p 0.95": ({"temperature": 0.8, "typical_p": 0.95}, None),
    "all penalties": ({"repetition_penalty": 1.2, "presence_penalty": 0.5, "frequency_penalty": 0.5}, None),
    "1000 allowed ids": ({"allowed_token_ids": tuple(range(0, VOCABULARY, 50))}, None),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15, help="rounds, of which the median counts (default: 15)")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (default: 1)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    with torch.inference_mode():
        report(measure(decode_step(), arguments.rounds), arguments.threads)


def decode_step() -> Callable[[], Tensor]:
    """A step that computes the logits [16, V] of one more token for each of 16 sequences."""
    with tempfile.TemporaryDirectory() as folder:
        GPT2LMHeadModel(GPT2Config()).save_pretrained(folder)
        loaded = load_model(Path(folder), device=torch.device("cpu"), dtype=torch.float32)
    runner = ModelRunner(loaded=loaded, vocabulary_size=VOCABULARY, max_sequences=NUM_ROWS)
    draw = draws({})[0]
    for slot in range(NUM_ROWS):
        runner.forward([row(slot, 0, LENGTH, draw)])
    rows = [row(slot, LENGTH, 1, draw) for slot in range(NUM_ROWS)]
    return lambda: runner.forward(rows).logits_RV


def row(slot: int, start: int, count: int, draw: Draw) -> Row:
    ids = tuple(random.Random(slot).choices(range(VOCABULARY), k=count))
    return Row(slot=slot, start=start, num_tokens=count, token_ids=ids, num_reserved_tokens=LENGTH + 1, draw=draw)


def draws(setting: dict[str, Any], step: int = 0) -> list[Draw]:
    rows = [SamplingParameters(seed=seed, **setting) for seed in range(NUM_ROWS)]
    return [Draw(parameters=row, position=LENGTH + step, history=HISTORY, num_prompt_tokens=64) for row in rows]


def uneven(sharpness: float) -> Tensor:
    """Logits that fall with the logarithm of the rank, as a language model's do, in a random order of ids."""
    falling_V = -sharpness * torch.arange(1, VOCABULARY + 1).log()
    rows = [(falling_V + torch.randn(VOCABULARY))[torch.randperm(VOCABULARY)] for _ in range(NUM_ROWS)]
    return torch.stack(rows)


def measure(decode: Callable[[], Tensor], rounds: int) -> list[dict[str, Any]]:
    """Medians of milliseconds; one round of warming up comes before."""
    kinds = {"random weights": decode(), "like text": uneven(1.4), "sharp": uneven(4.0)}
    cases = [(kind, setting) for kind in kinds for setting in SETTINGS]
    steps: list[float] = []
    times: dict[tuple[str, str], list[float]] = {case: [] for case in cases}
    for number in range(rounds + 1):
        steps.append(milliseconds(decode))
        for kind, setting in cases:
            asked = draws(SETTINGS[setting][0], number)
            times[kind, setting].append(milliseconds(lambda x_RV=kinds[kind], asked=asked: sample(x_RV, asked)))
    step = statistics.median(steps[1:])
    medians = {case: statistics.median(values[1:]) for case, values in times.items()}
    return [
        {"logits": kind, "asked": asked, "ms": ms, "step_ms": step, "share": ms / step, "limit": SETTINGS[asked][1]}
        for (kind, asked), ms in medians.items()
    ]


def milliseconds(run: Callable[[], object]) -> float:
    began = time.process_time()
    run()
    return (time.process_time() - began) * 1e3


def report(rows: list[dict[str, Any]], threads: int) -> None:
    machine = f"{platform.machine()}, torch {torch.__version__}, {threads} thread{'s'[: threads - 1]}"
    lines = ["| logits | every row asks for | ms | of a decode step | at most |", "|---|---|---|---|---|"]
    for row in rows:
        limit = "" if row["limit"] is None else f"{row['limit']:.0%}"
        lines.append(f"| {row['logits']} | {row['asked']} | {row['ms']:.1f} | {row['share']:.1%} | {limit} |")
    step = f"a decode step of {NUM_ROWS} rows takes {rows[0]['step_ms']:.0f} ms"
    text = f"GPT-2 124M, float32, {machine}; {step}\n\n" + "\n".join(lines) + "\n"
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "sampling.md").write_text(text)
    (RESULTS / "sampling.json").write_text(json.dumps({"machine": machine, "rows": rows}, indent=2) + "\n")
    print(text)


if __name__ == "__main__":
    main()
