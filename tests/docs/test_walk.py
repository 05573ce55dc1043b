"""The README and the tutorials do what they say, from the first command to the last.

The quick walk trains tiny models, in this process. RHAPSODE_WALK=1 walks verbatim, in copies as a fresh clone would be:
the README makes its own environment there and trains for minutes.
"""

import io
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
from support.pages import Page
from support.walking import Outcome, Walk

ROOT = Path(__file__).parents[2]
README = Page(ROOT / "README.md")
INDEX = Page(ROOT / "docs" / "tutorials" / "index.md")

TINY_MODEL = ["n_embd=16", "n_head=2", "n_layer=1", "n_positions=128"]
TINY_RUN = [
    "rows.block_size=64",
    "training.epochs=0",
    "training.arguments.max_steps=4",
    "training.arguments.per_device_train_batch_size=2",
    "training.arguments.warmup_steps=1",
    "evaluation.batch_size=64",
    "evaluation.stride=64",
    "sample.max_new_tokens=8",
    "gate.tolerance=100",
    "gate.max_repetition=1",
    "gate.max_empty=1",
    "gate.min_words=0",
]


def tutorials() -> list[Page]:
    """In the order in which the index names them."""
    names = re.findall(r"\]\(([\w-]+\.md)\)", INDEX.text)
    return [Page(INDEX.path.parent / name) for name in dict.fromkeys(names)]


def tiny(words: list[str]) -> list[str]:
    """The same command on few steps of a small model."""
    if words[0] != "run":
        return words
    from_scratch = words[1] == "quickstart"
    fields = [*TINY_RUN, *(f"model.{field}" for field in TINY_MODEL if from_scratch)]
    return [*words, *(f"--set={field}" for field in fields)]


@pytest.fixture
def trainer(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Outcome | None]:
    """Runs `rhapsode-train` in this process, which has spent the seconds of its imports already."""
    import torch
    from rhapsode_trainer.__main__ import main
    from rhapsode_trainer.publish import load_check, version

    torch.set_num_threads(1)
    monkeypatch.setattr(version, "check_in_fresh_process", load_check.check)
    monkeypatch.setenv("COLUMNS", "120")

    def run(command: str) -> Outcome | None:
        if not command.startswith(".venv/bin/rhapsode-train ") or re.search(r"[|&;<>]", command):
            return None
        program, *words = shlex.split(command.replace("\\\n", " "))
        monkeypatch.setattr(sys, "argv", [program, *tiny(words)])
        output = io.StringIO()
        with redirect_stdout(output), redirect_stderr(output), pytest.raises(SystemExit) as end:
            main()
        return Outcome(int(end.value.code or 0), output.getvalue())

    return run


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the quick walk has of a clone: its environment and its data."""
    (tmp_path / ".venv").symlink_to(sys.prefix)
    (tmp_path / "trainer").symlink_to(ROOT / "trainer")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def copy_of_the_tree(folder: Path) -> Path:
    """What a fresh clone would hold once everything is committed."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


verbatim = pytest.mark.skipif("RHAPSODE_WALK" not in os.environ, reason="make walk does it: it takes half an hour")


@pytest.mark.timeout(900)
def test_the_readme(folder: Path, trainer: Callable[[str], Outcome | None]) -> None:
    with Walk(folder, quick=True, runner=trainer) as walk:
        walk.page(README)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_tutorials(folder: Path, trainer: Callable[[str], Outcome | None]) -> None:
    with Walk(folder, quick=True, runner=trainer) as walk:
        for page in tutorials():
            walk.page(page)


@verbatim
@pytest.mark.timeout(7200)
def test_the_readme_verbatim(tmp_path: Path) -> None:
    with Walk(copy_of_the_tree(tmp_path), quick=False) as walk:
        walk.page(README)


@verbatim
@pytest.mark.timeout(7200)
def test_the_tutorials_verbatim(tmp_path: Path) -> None:
    (tmp_path / ".venv").symlink_to(sys.prefix)
    with Walk(copy_of_the_tree(tmp_path), quick=False) as walk:
        for page in tutorials():
            walk.page(page)


def test_the_index_names_every_tutorial() -> None:
    assert {page.path for page in tutorials()} == set(INDEX.path.parent.glob("*.md")) - {INDEX.path}


@pytest.mark.parametrize("page", [README, INDEX, *tutorials()], ids=lambda page: page.path.name)
def test_what_pages_name_is_there(page: Page) -> None:
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text("utf-8"), re.M)
    assert set(re.findall(r"(?:`|^|\$ )make ([a-z-]+)", page.text, re.M)) <= set(targets)
    links = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", page.text)
    missing = [link for link in links if not (page.path.parent / link).exists()]
    assert not missing


def test_the_readme_is_short() -> None:
    assert len(README.text.splitlines()) <= 200
