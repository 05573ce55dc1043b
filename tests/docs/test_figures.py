"""What the pages on engine and trainer say in figures and names is what the code has."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ENGINE, TRAINER = Path("server/rhapsode_server/engine"), Path("trainer/rhapsode_trainer")
SAID = [
    ("engine.md", "about three times as long", ENGINE / "scheduler.py", "MAX_STRETCH = 3"),
    ("engine.md", "`2 x (16 + streams)`", ENGINE / "scheduler.py", 'STEP_OVERHEAD = {"cpu": 16,'),
    ("engine.md", "in blocks of 16", ENGINE / "memory.py", "BLOCK_SIZE = 16"),
    ("engine.md", "head start of one second for each point", ENGINE / "queue.py", "_POINTS_PER_SECOND = 1.0"),
    ("engine.md", "to 1e-4\n   nats", ENGINE / "canary.py", "WEIGHTS_BOUND = 1e-4"),
    ("engine.md", "Two packed prompts and four decode steps", ENGINE / "proof.py", "NUM_DECODE_STEPS = 4"),
    ("engine.md", "at most 32 rows", ENGINE / "decode_tapes.py", "MOST_ROWS = 32"),
    ("engine.md", "panels of 64 outputs", ENGINE / "kernels/panels.h", "times a panel of 64 outputs"),
    ("engine.md", "six at a time", ENGINE / "kernels/panels.h", "TALLEST = 6"),
    ("engine.md", "two steps are in flight", ENGINE / "cuda/runner.py", "DEPTH = 2"),
    ("trainer.md", "2,000\ntimes", TRAINER / "evaluation/bootstrap.py", "RESAMPLES = 2000"),
    ("trainer.md", "16 tokens of a prompt", TRAINER / "publish/canary.py", "PROMPT_TOKENS = 16"),
    ("trainer.md", "32 of its greedy\n   continuation", TRAINER / "publish/canary.py", "CONTINUATION_TOKENS = 32"),
]


@pytest.mark.parametrize(("page", "words", "source", "code"), SAID, ids=[code for *_, code in SAID])
def test_a_figure_is_that_of_the_code(page: str, words: str, source: Path, code: str):
    assert words in (ROOT / "docs" / page).read_text("utf-8")
    assert code in (ROOT / source).read_text("utf-8")


def test_every_rule_of_the_gate_is_explained():
    source = (ROOT / TRAINER / "gate.py").read_text("utf-8")
    body = source.partition("class GateConfig:")[2].partition("def ")[0]
    fields = re.findall(r"^    (\w+): (?:float|str)$", body, re.MULTILINE)
    page = (ROOT / "docs" / "trainer.md").read_text("utf-8")
    assert len(fields) == 8
    assert not [field for field in fields if f"`gate.{field}`" not in page]


def test_every_kernel_is_explained():
    kernels = [path.name for path in (ROOT / ENGINE / "kernels").glob("*.cpp") if path.name != "parallel.cpp"]
    page = (ROOT / "docs" / "engine.md").read_text("utf-8")
    assert kernels
    assert not [name for name in kernels if f"| `{name}` |" not in page]
