"""docs/performance.md from the files of benchmarks/results."""

import json
from pathlib import Path
from typing import Any

from performance import tables


def render(results: Path) -> str:
    """The whole page. Every figure in it is of a file in `results`."""
    serving, training = _read(results / "serving-cpu.json"), _read(results / "training-cpu.json")
    sampling, front_end = _read(results / "sampling.json"), _read(results / "frontend.json")
    return (
        "\n\n".join([HEAD, *_serving(serving), *_parts(serving, sampling, front_end), *_training(training), FOOT])
        + "\n"
    )


def _serving(found: tables.Result) -> list[str]:
    machine, limits = found["machine"], found["limits"]
    closed, goals = found["closed"], found["goals"]
    met = sum(bool(goal["is_met"]) for goal in goals)
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    return [
        "## Serving",
        f"GPT-2 124M on {machine['cores']} cores of an {machine['processor']}; {packages}. The server is measured "
        "through gRPC by a client on the same cores, its peers within their process.",
        "![Tokens per second of each system by number of callers](images/throughput.svg)",
        tables.throughput(closed),
        f"At {tables.COMPARED} callers:",
        tables.latency(closed),
        "## Goals, met and missed",
        f"What the project wants to reach, and where it stands: {met} of {len(goals)} are met.",
        tables.goals(goals),
        "## Requests that come when they come",
        "Poisson arrivals at a share of what each system can do at best:",
        tables.arrivals(found["open"]),
        "## A shared beginning",
        f"Behind a preamble of {found['prefix']['preamble']} tokens the first token took "
        f"{tables.milliseconds(found['prefix']['cold_seconds'])} ms where the preamble was new, and "
        f"{tables.milliseconds(found['prefix']['hit_seconds'])} ms where another request had brought it.",
        "## What the machine allows",
        f"Reading as many bytes as the weights have went at {limits['read']['float32'] / 1e9:.1f} GB/s in float32 and "
        f"{limits['read']['int8'] / 1e9:.1f} GB/s in int8, products of large matrices at "
        f"{limits['matmul']['float32'] / 1e9:,.0f} and {limits['matmul']['int8'] / 1e9:,.0f} Gop/s.",
        tables.steps(found["steps"]),
        tables.attention(found["attention"]),
    ]


def _parts(serving: tables.Result, sampling: tables.Result, front_end: tables.Result) -> list[str]:
    return [
        "## Choosing a token",
        f"GPT-2's vocabulary and logits like those of text; {sampling['machine']}. What is asked for decides what it "
        "costs ([how](sampling.md#what-is-computed)).",
        tables.sampling(sampling["rows"], "like text"),
        "## The front-end",
        f"Its processor time for a token, with an engine that computes nothing; {front_end['machine']}, "
        f"{front_end['busy']}. The more there is to do, the more tokens go into a message.",
        tables.front_end(front_end["rows"]),
    ]


def _training(found: tables.Result) -> list[str]:
    return [
        "## Training",
        f"GPT-2 from scratch beside stock `Trainer`; {found['machine']}. *Joined*: documents one after the other, each "
        "seeing those before it; `rhapsode` packs them without that.",
        tables.training(found["rows"]),
    ]


def _read(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))


HEAD = """# Performance

<!-- Generated from benchmarks/results by tools/generate_performance.py: do not edit. -->

Every figure here is of a run in [benchmarks/results](../benchmarks/results/serving-cpu.md), good and bad ones alike.
[benchmarks](../benchmarks/README.md) says how they are measured, and how to measure on your machine. Figures of two
machines are not comparable; ratios within one run are. All of it ran on a CPU: **no figure of a GPU is given, since
none was at hand.**"""

FOOT = """## On your machine

```
make bench           # serving, some 14 minutes; writes benchmarks/results
make bench-train     # training beside stock Trainer
make docs            # this page, from what they wrote
```"""
