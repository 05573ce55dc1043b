"""The tour of `make demo`: train on real poems, serve the version just published, stream a poem, stop."""

import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

Process = subprocess.Popen[bytes]

BIN = Path(sys.executable).parent
TRAIN = ("rhapsode-train", "run", "quickstart", "--models", "./models", "--name", "poems")
PLACES = ("--address", "127.0.0.1:0", "--metrics-port", "0", "--admin-address", "off")
SERVE = ("rhapsode-serve", "--models", "./models", *PLACES)
POEM = ("The moon upon the sea", "--stream", "--model", "poems", "--seed", "5", "--temperature", "0.7", "--verbose")
START_SECONDS, CALL_SECONDS, STOP_SECONDS = 180, 120, 60

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def let_signals_in() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


class DemoError(Exception):
    """A step failed; the text says which and how."""


@contextmanager
def child(*command: str, output: IO[bytes] | None = None) -> Iterator[Process]:
    """A process that does not outlive the block: asked to end first, then killed with all that it started."""
    print("\n$", shlex.join(command), flush=True)
    # A signal that came before the process is known would leave it behind: it waits until then.
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    # In a session of its own Ctrl-C does not reach it: this process stops it, in good order.
    process = subprocess.Popen(
        [BIN / command[0], *command[1:]],
        stdout=output,
        stderr=output,
        start_new_session=True,
        preexec_fn=let_signals_in,
    )
    try:
        let_signals_in()
        yield process
    finally:
        process.terminate()
        try:
            with suppress(subprocess.TimeoutExpired):
                process.wait(STOP_SECONDS)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def finish(process: Process, what: str, seconds: float | None) -> None:
    try:
        code = process.wait(seconds)
    except subprocess.TimeoutExpired:
        raise DemoError(f"{what} did not end within {seconds} s") from None
    if code:
        raise DemoError(f"{what} ended with exit code {code}")


def run(*command: str, seconds: float | None = CALL_SECONDS) -> None:
    with child(*command) as process:
        finish(process, shlex.join(command[:2]), seconds)


def wait_until(what: str, condition: Callable[[], object], server: Process) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not condition():
        if server.poll() is not None:
            raise DemoError(f"rhapsode-serve ended with exit code {server.returncode} before {what}")
        if time.monotonic() > deadline:
            raise DemoError(f"rhapsode-serve took more than {START_SECONDS} s until {what}")
        time.sleep(0.1)


def bound_address(log: Path) -> str:
    found = re.search(r"gRPC on ([^\s,]+)", log.read_text(errors="replace"))
    return found[1] if found else ""


def is_serving() -> bool:
    command = [str(BIN / "rhapsode"), "health", "--service", "model/poems", "--timeout", "5"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def serve(log: Path) -> None:
    """Starts a server that writes to `log`, uses it and stops it."""
    began = time.monotonic()
    with log.open("wb") as output, child(*SERVE, output=output) as server:
        wait_until("it named its address", lambda: bound_address(log), server)
        os.environ["RHAPSODE_ADDRESS"] = bound_address(log)
        wait_until("it was SERVING", is_serving, server)
        print(f"SERVING on {bound_address(log)} after {time.monotonic() - began:.1f} s")
        run("rhapsode", "models")
        run("rhapsode", "generate", *POEM)
        began = time.monotonic()
        server.terminate()
        finish(server, "rhapsode-serve", STOP_SECONDS)
        print(f"\nDrained and stopped in {time.monotonic() - began:.1f} s")


def tour(installing: float, log: Path) -> None:
    """`installing` is when the installation began, in epoch seconds."""
    training = time.time()
    print("\n== Train a model from scratch on public-domain poems and publish it", flush=True)
    run(*TRAIN, seconds=None)
    serving = time.time()
    print("\n== Serve it", flush=True)
    serve(log)
    install, train, served = training - installing, serving - training, time.time() - serving
    print(f"\n== Done: install {install:.0f} s, train {train:.0f} s, serve {served:.0f} s")
    print("Keep one running: `make serve`. Then, in another terminal: .venv/bin/rhapsode repl")


if __name__ == "__main__":
    for number in SIGNALS:
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "rhapsode-serve.log")
        try:
            tour(float(sys.argv[1]), log)
        except DemoError as error:
            sys.exit(f"{log.read_text(errors='replace') if log.exists() else ''}\ndemo: {error}")
