"""Walks a page as its reader would: runs its blocks in order in one folder, and compares what it shows."""

import os
import re
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from support.pages import Block, Page, Step

START_SECONDS, STEP_SECONDS, STOP_SECONDS = 300.0, 3600.0, 60.0

# The same program says other figures each time: numbers, ids, and why a text ended. Tables adapt to them.
_FIGURE = re.compile(r"\b[0-9a-f]{16,}\b|[-+]?\d[\d,.:]*(?:e[-+]\d+)?|\b(?:eos|length|context_full)\b")
_RULE = re.compile(r"[\u2500-\u259f|]+")
_GAP = "..."
_DEFAULT_ADDRESS = "127.0.0.1:50051"
# A server that a page starts takes free ports; calls find it by the address that it logs.
_SERVING = {
    "RHAPSODE_ADDRESS": "127.0.0.1:0",
    "RHAPSODE_METRICS_PORT": "0",
    "RHAPSODE_ADMIN_ADDRESS": "127.0.0.1:0",
    "RHAPSODE_POLL_INTERVAL": "500ms",
    "RHAPSODE_THREADS": "1",
}


class Outcome(NamedTuple):
    code: int
    output: str


Runner = Callable[[str], Outcome | None]


def normalised(lines: Sequence[str]) -> list[str]:
    """Lines as they are the same in every run: figures and rules of tables taken out, blank lines dropped."""
    plain = (_RULE.sub(" ", line) if line.strip() != _GAP else _GAP for line in lines)
    words = (" ".join(_FIGURE.sub("#", line).split()) for line in plain)
    return [line for line in words if line]


def agrees(shown: Sequence[str], output: str, *, generated: bool = False, unfinished: bool = False) -> bool:
    """Whether `output` is what was `shown`, in which a line of dots stands for any lines.

    Of `generated` text only what programs say of it in brackets counts. What is `unfinished` may go on.
    """
    wanted, rest = normalised(shown), normalised(output.splitlines())
    if generated:
        messages = [line for line in wanted if re.match(r"\[|rhapsode", line)]
        wanted = [_GAP, *(each for line in messages for each in (line, _GAP))]
    if unfinished:
        wanted = [*wanted, _GAP]
    return _matches(_split(wanted), rest)


def _split(lines: Sequence[str]) -> list[list[str]]:
    """The runs of lines between gaps; one more than there are gaps, empty ones among them."""
    runs: list[list[str]] = [[]]
    for line in lines:
        if line == _GAP:
            runs.append([])
        else:
            runs[-1].append(line)
    return runs


def _matches(runs: Sequence[list[str]], lines: list[str]) -> bool:
    """Whether `lines` begin with the first run, end with the last, and have the others in order between."""
    if len(runs) == 1:
        return lines == runs[0]
    first, *middle, last = runs
    place, end = len(first), len(lines) - len(last)
    if place > end or lines[:place] != first or lines[end:] != last:
        return False
    for run in middle:
        starts = (at for at in range(place, end - len(run) + 1) if lines[at : at + len(run)] == run)
        if (start := next(starts, None)) is None:
            return False
        place = start + len(run)
    return True


class Background:
    """A command that is left running. `output` is all that it has said; a page is shown what is new since the last."""

    def __init__(self, command: str, folder: Path, environment: Mapping[str, str]) -> None:
        self.process = subprocess.Popen(
            ["bash", "-c", f"exec {command}"],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.output = ""
        self._ended = False
        self._shown = 0
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def wait_for(self, shown: Sequence[str]) -> None:
        with self._news:
            self._news.wait_for(lambda: self._ended or self._has_said(shown), START_SECONDS)
            wanted = "\n".join(shown)
            assert self._has_said(shown), f"the page shows:\n{wanted}\n\nbut it said:\n{self.output}"
            self._shown = len(self.output)

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(STOP_SECONDS)
        finally:
            self.process.kill()
            self._reader.join()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                with self._news:
                    self.output += line
                    self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()

    def _has_said(self, shown: Sequence[str]) -> bool:
        return agrees(shown, self.output[self._shown :], unfinished=True)


class Walk:
    """Runs pages in `folder`; what they leave running ends with the walk.

    `runner` may run a command in another way than bash does; it returns None for those that it leaves. `quick` takes
    the short commands that pages have in place of long ones.
    """

    def __init__(self, folder: Path, *, quick: bool, runner: Runner = lambda command: None) -> None:
        self.folder = folder
        self._quick = quick
        self._runner = runner
        self._background: dict[str, Background] = {}
        own = {key: value for key, value in os.environ.items() if not key.startswith("RHAPSODE_")}
        self.environment = own | {"HF_HUB_OFFLINE": "1", "COLUMNS": "120", "TERM": "dumb"}

    def __enter__(self) -> "Walk":
        return self

    def __exit__(self, *error: object) -> None:
        for process in self._background.values():
            process.stop()

    def page(self, page: Page) -> None:
        for block in page.blocks:
            try:
                self._block(block)
            except AssertionError as error:
                raise AssertionError(f"{block.where}: {error}") from None

    def _block(self, block: Block) -> None:
        if "skip" in block.directives:
            return
        if self._quick and "quick" in block.directives:
            self._script(block.directives["quick"])
            return
        block = replace(block, text=block.text.replace(_DEFAULT_ADDRESS, self._address))
        if before := block.directives.get("before"):
            self._script(before)
        if block.language == "python":
            self._script(f".venv/bin/python - <<'END'\n{block.text}\nEND")
        elif block.language == "bash":
            self._script(block.text)
        elif block.language == "console":
            for step in block.steps:
                self._step(step, block)

    @property
    def _address(self) -> str:
        return self.environment.get("RHAPSODE_ADDRESS", _DEFAULT_ADDRESS)

    def _script(self, text: str) -> None:
        self._check(Step(command=text, shown=(_GAP,)), generated=False)

    def _step(self, step: Step, block: Block) -> None:
        if "background" in block.directives:
            self._leave_running(step)
        else:
            self._check(step, generated="generated" in block.directives)

    def _leave_running(self, step: Step) -> None:
        """Unless it runs already, as in a terminal left open since another page."""
        if step.command not in self._background:
            self._background[step.command] = Background(step.command, self.folder, self.environment | _SERVING)
        process = self._background[step.command]
        process.wait_for(step.shown)
        if found := re.search(r"gRPC on ([^\s,]+).*admin on ([^\s,]+)", process.output):
            self.environment["RHAPSODE_ADDRESS"], self.environment["RHAPSODE_ADMIN_ADDRESS"] = found.groups()

    def _check(self, step: Step, *, generated: bool) -> None:
        code, output = self._runner(step.command) or self._shell(step.command)
        said = f"$ {step.command}\nended with {code} and said:\n{output}"
        assert (code != 0) is step.fails, said
        shown = "\n".join(step.shown)
        assert agrees(step.shown, output, generated=generated), f"the page shows:\n{shown}\n\nbut {said}"

    def _shell(self, command: str) -> Outcome:
        done = subprocess.run(
            ["bash", "-e", "-o", "pipefail", "-c", command],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=STEP_SECONDS,
            check=False,
        )
        return Outcome(done.returncode, done.stdout)
