"""Whole-call tokens per second: this engine beside transformers' `generate`, alternating in one process.

GPT-2 124M with random weights (speed does not depend on them), prompts of 64 tokens, 64 new tokens, greedy.
Figures of two runs are not comparable, the ratios within one are. Usage: python benchmarks/engine.py [--rounds N]
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from rhapsode_server.engine.build import build_engine
from rhapsode_server.engine.engine import Engine
from rhapsode_server.engine.options import EngineOptions
from rhapsode_server.engine.request import EngineRequest
from transformers import GPT2Config, GPT2LMHeadModel

RESULTS = Path(__file__).parent / "results"
PROMPT_LENGTH = NEW_TOKENS = 64
CALLERS = (1, 4, 16)

Run = Callable[[list[list[int]]], None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="rounds, of which the median counts (default: 3)")
    rounds = parser.parse_args().rounds
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        model = GPT2LMHeadModel(GPT2Config()).eval()
        model.save_pretrained(folder)
        options = EngineOptions(path=folder, vocabulary_size=model.config.vocab_size)
        engine = build_engine(options).engine
    runs: dict[str, Run] = {
        "generate": lambda prompts: generate(model, prompts),
        "rhapsode engine": lambda prompts: run_engine(engine, prompts),
    }
    rows = [measure(runs, callers, rounds) for callers in CALLERS]
    report(rows)


def generate(model: GPT2LMHeadModel, prompts: list[list[int]]) -> None:
    """One static batch: its best case, as all prompts and completions have one length."""
    ids = torch.tensor(prompts)
    output = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS, pad_token_id=0
    )
    assert output.shape == (len(prompts), PROMPT_LENGTH + NEW_TOKENS)


def run_engine(engine: Engine, prompts: list[list[int]]) -> None:
    for request_id, prompt in enumerate(prompts):
        request = EngineRequest(request_id=request_id, prompt_ids=tuple(prompt), max_new_tokens=NEW_TOKENS)
        engine.submit(request)
    num_tokens = 0
    while engine.has_work:
        num_tokens += len(engine.step().events)
    assert num_tokens == len(prompts) * NEW_TOKENS


def measure(runs: dict[str, Run], callers: int, rounds: int) -> dict[str, float]:
    """Medians of tokens per second, by name; one round of warming up comes before."""
    prompts = torch.randint(50257, (callers, PROMPT_LENGTH)).tolist()
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds + 1):
        for name, run in runs.items():
            began = time.perf_counter()
            run(prompts)
            seconds[name].append(time.perf_counter() - began)
    return {"callers": callers} | {
        name: callers * NEW_TOKENS / statistics.median(times[1:]) for name, times in seconds.items()
    }


def report(rows: list[dict[str, float]]) -> None:
    machine = f"{os.cpu_count()} cores, {platform.machine()}, torch {torch.__version__}"
    lines = ["| callers | generate, tokens/s | rhapsode engine, tokens/s | ratio |", "|---|---|---|---|"]
    for row in rows:
        ratio = row["rhapsode engine"] / row["generate"]
        lines.append(f"| {row['callers']} | {row['generate']:.0f} | {row['rhapsode engine']:.0f} | {ratio:.2f} |")
    text = f"GPT-2 124M, float32, {machine}\n\n" + "\n".join(lines) + "\n"
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "engine.md").write_text(text)
    (RESULTS / "engine.json").write_text(json.dumps({"machine": machine, "rows": rows}, indent=2) + "\n")
    print(text)


if __name__ == "__main__":
    main()
