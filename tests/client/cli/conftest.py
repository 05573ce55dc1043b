"""The command line: in this process, in one of its own, and on a terminal."""

import os
import pty
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from rhapsode_client.cli.app import app
from typer.testing import CliRunner, Result

# A parent in the background may have SIGINT ignored, which children inherit.
START = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
    "from rhapsode_client.cli.app import main; main()"
)
COMMAND = [sys.executable, "-c", START]
# On a terminal of its own: what is typed there as Ctrl-C interrupts the command, as it does for a person.
COMMAND_ON_TERMINAL = [sys.executable, "-c", f"import os; os.login_tty(0); {START}"]


@pytest.fixture
def rhapsode(server: Any) -> Callable[..., Result]:
    """Runs a command against `server` and returns how it went."""

    def run(*arguments: str, stdin: str | bytes = "") -> Result:
        environment = {"RHAPSODE_ADDRESS": server.address, "RHAPSODE_ADMIN_ADDRESS": server.address}
        return CliRunner().invoke(app, list(arguments), input=stdin, env=environment)

    return run


@pytest.fixture
def process(server: Any, tmp_path: Any) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts a command in a process of its own: `on` a terminal, else with pipes where nothing else is said."""
    with ExitStack() as stack:

        def start(*arguments: str, on: Terminal | None = None, **streams: Any) -> subprocess.Popen[bytes]:
            ends = on.theirs if on else subprocess.PIPE
            pipes = {"stdin": ends, "stdout": ends, "stderr": ends} | streams
            command = COMMAND_ON_TERMINAL if on else COMMAND
            environment = {
                **os.environ,
                "RHAPSODE_ADDRESS": server.address,
                "RHAPSODE_ADMIN_ADDRESS": server.address,
                "XDG_STATE_HOME": str(tmp_path),
                "TERM": "xterm",
                "PROMPT_TOOLKIT_NO_CPR": "1",
            }
            started = stack.enter_context(subprocess.Popen([*command, *arguments], env=environment, **pipes))
            stack.callback(started.kill)
            return started

        yield start


class Terminal:
    """A pseudo-terminal: what a person types and sees."""

    def __init__(self) -> None:
        self.ours, self.theirs = pty.openpty()
        self.seen = b""

    def read_until(self, expected: bytes) -> bytes:
        """What has been shown since the last call, up to and with `expected`."""
        while expected not in self.seen:
            ready, _, _ = select.select([self.ours], [], [], 10)
            assert ready, f"{expected!r} was not shown, but {self.seen!r}"
            self.seen += os.read(self.ours, 4096)
        shown, _, rest = self.seen.partition(expected)
        self.seen = rest
        return shown + expected

    def type(self, text: bytes) -> None:
        os.write(self.ours, text)


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    """A terminal for a process to run on."""
    opened = Terminal()
    yield opened
    os.close(opened.ours)
    os.close(opened.theirs)


@pytest.fixture
def interrupt() -> Callable[[subprocess.Popen[bytes]], None]:
    """What Ctrl-C does."""
    return lambda process: process.send_signal(signal.SIGINT)
