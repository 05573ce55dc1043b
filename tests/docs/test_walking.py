"""The walker itself: what it runs of a page, and what it takes for the same output."""

import sys
from pathlib import Path

import pytest
from support.pages import Page
from support.walking import Outcome, Walk, agrees

_SERVER = """
import os, pathlib, signal
os.mkfifo("fifo")
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
print("gRPC on 127.0.0.1:4321, metrics on http://127.0.0.1:4323/metrics, admin on 127.0.0.1:4322", flush=True)
print("version 1 ready", flush=True)
open("fifo").read()
print("version 2 ready", flush=True)
signal.sigwait({signal.SIGTERM})
pathlib.Path("stopped").touch()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "here").mkdir()
    return tmp_path / "here"


def page(folder: Path, text: str) -> Page:
    path = folder.parent / "page.md"
    path.write_text(text, encoding="utf-8")
    return Page(path)


@pytest.mark.parametrize(
    ("shown", "output", "same"),
    [
        ("train 70/700 (10%)  1,187 tokens/s", "train 1/4 (25%)  12 tokens/s", True),
        ("poems version 1: serving", "poems version 1: warming", False),
        ("│ before │ 3.847 │", "|  before  |  11.2  |", True),
        ("a\n...\nd\ne", "a\nb\nc\nd\ne", True),
        ("a\n...\nd", "a\nd\ne", False),
        ("a\n...\nc\n...\nb\n...", "a\nb\nc", False),
        ("a\n...\nb", "a\na\nb", True),
        ("...", "", True),
        ("...\na", "b", False),
        ("a\n...\na", "a", False),
        ("", "said nonetheless", False),
        ("request id: 52e8e0d5ba86b4e95216f5ac58284d21", "request id: 0123456789abcdef0123456789abcdef", True),
    ],
)
def test_what_counts_as_the_same(shown: str, output: str, same: bool) -> None:
    assert agrees(shown.splitlines(), output) is same


def test_of_generated_text_only_messages_count() -> None:
    shown = ["O the sea", "[poems version 1, 5 + 71 tokens, seed 5, eos]"]
    assert agrees(shown, "another poem\nof two lines\n[poems version 1, 5 + 8 tokens, seed 5, length]", generated=True)
    assert not agrees(shown, "O the sea\n[poems version 1, 5 + 8 tokens, seed 5, cancelled]", generated=True)


def test_commands_run_in_order_in_the_folder_and_are_compared(folder: Path) -> None:
    text = "```console\n$ echo 1 \\\n    2 > file\n$ cat file\n3 4\n```\n\n```bash\nrm file\n```\n"
    with Walk(folder, quick=True) as walk:
        walk.page(page(folder, text))
    assert not list(folder.iterdir())


@pytest.mark.parametrize(
    ("block", "reason"),
    [
        ("console\n$ echo no\nyes", "page.md:3: the page shows:\nyes"),
        ("console\n$ false", "page.md:3: \\$ false\nended with 1"),
        ("console\n$ echo 'rhapsode: no'\nrhapsode: no", "ended with 0"),
        ("bash\nfalse\ntrue", "ended with 1"),
    ],
)
def test_what_does_not_hold_is_named(folder: Path, block: str, reason: str) -> None:
    with Walk(folder, quick=True) as walk, pytest.raises(AssertionError, match=reason):
        walk.page(page(folder, f"# Page\n\n```{block}\n```\n"))


def test_a_shown_complaint_must_come_with_a_failure(folder: Path) -> None:
    with Walk(folder, quick=True) as walk:
        walk.page(page(folder, "```console\n$ echo 'rhapsode: it is 3'; exit 2\nrhapsode: it is 7\n```\n"))


def test_comments_skip_prepare_and_shorten(folder: Path) -> None:
    text = (
        "<!-- walk: skip, it needs a cluster -->\n```bash\ntouch skipped\n```\n\n"
        "<!-- walk: before, touch prepared -->\n```bash\nrm prepared; touch seen\n```\n\n"
        "<!-- walk: quick, touch short -->\n```bash\ntouch long\n```\n\n```\ntouch read-only\n```\n"
    )
    for quick in (True, False):
        with Walk(folder, quick=quick) as walk:
            walk.page(page(folder, text))
        assert {path.name for path in folder.iterdir()} == {"seen", "short", *([] if quick else ["long"])}


def test_an_unknown_comment_is_refused(folder: Path) -> None:
    with pytest.raises(AssertionError, match=r"page\.md:2: no such directive: hurry"):
        list(page(folder, "<!-- walk: hurry -->\n```bash\n```\n").blocks)


def test_a_program_talks_to_the_server_that_the_page_left_running(folder: Path) -> None:
    (folder / "serve.py").write_text(_SERVER)
    start = f"<!-- walk: background -->\n```console\n$ {sys.executable} serve.py\n...\nversion 1 ready\n```\n"
    again = "```bash\necho > fifo\n```\n" + start.replace("version 1", "version 2")
    call = "```console\n$ echo $RHAPSODE_ADDRESS 127.0.0.1:50051 | tee address\n127.0.0.1:1 127.0.0.1:1\n```\n"
    with Walk(folder, quick=True) as walk:
        walk.page(page(folder, start + call))
        walk.page(page(folder, again))  # it is there already, and says more
        assert not (folder / "stopped").exists()
    assert (folder / "address").read_text() == "127.0.0.1:4321 127.0.0.1:4321\n"
    assert (folder / "stopped").exists()


def test_what_ends_before_it_says_so_is_named(folder: Path) -> None:
    text = "<!-- walk: background -->\n```console\n$ echo broken\nready\n```\n"
    with Walk(folder, quick=True) as walk, pytest.raises(AssertionError, match="but it said:\nbroken"):
        walk.page(page(folder, text))


def test_a_runner_takes_the_commands_that_it_knows(folder: Path) -> None:
    def runner(command: str) -> Outcome | None:
        return Outcome(0, "tiny\n") if command.startswith("train") else None

    with Walk(folder, quick=True, runner=runner) as walk:
        walk.page(page(folder, "```console\n$ train\ntiny\n$ echo large\nlarge\n```\n"))
