"""The demo against stand-ins for the programs it drives: order, failure, interruption, and nothing left running."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

DEMO = Path(__file__).parents[2] / "tools" / "demo.py"

TRAIN = 'echo "trained: $*"'
# Writes the address that it was given, then the signal that ends it.
SERVE = r"""
trap 'echo "draining"; touch drained; exit 0' TERM
echo $$ > pid
echo "gRPC on 127.0.0.1:4321, metrics on http://127.0.0.1:4322/metrics"
touch up
while :; do sleep 0.05; done
"""
CLIENT = r"""
case "$1" in
  health) [ -e up ] && [ "$RHAPSODE_ADDRESS" = 127.0.0.1:4321 ] ;;
  models) echo "poems 1 champion" ;;
  generate) echo "the poem from $RHAPSODE_ADDRESS" ;;
esac
"""


@pytest.fixture
def start(tmp_path: Path):
    """Starts the demo with programs of these scripts beside its interpreter, in a folder of its own."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to(sys.executable)
    processes = []

    def begin(*, train: str = TRAIN, serve: str = SERVE, client: str = CLIENT) -> subprocess.Popen[str]:
        for name, script in {"rhapsode-train": train, "rhapsode-serve": serve, "rhapsode": client}.items():
            program = tmp_path / "bin" / name
            program.write_text(f"#!/bin/sh\n{script}\n")
            program.chmod(0o755)
        command = [tmp_path / "bin" / "python", DEMO, str(time.time() - 30)]
        pipe = subprocess.PIPE
        process = subprocess.Popen(command, cwd=tmp_path, stdout=pipe, stderr=subprocess.STDOUT, text=True)
        processes.append(process)
        return process

    yield begin
    for process in processes:
        process.kill()
        process.communicate()


def outcome(process: subprocess.Popen[str]) -> tuple[int, str]:
    output, _ = process.communicate(timeout=30)
    return process.returncode, output


def read_until(process: subprocess.Popen[str], text: str) -> None:
    assert process.stdout
    for line in process.stdout:
        if text in line:
            return
    raise AssertionError(f"the demo ended without {text!r}")


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_it_trains_serves_streams_and_stops(start, tmp_path: Path):
    code, output = outcome(start())
    assert code == 0, output
    parts = (
        "$ rhapsode-train run quickstart --models ./models --name poems",
        "trained: run quickstart",
        "$ rhapsode-serve --models ./models --address 127.0.0.1:0 --metrics-port 0 --admin-address off",
        "SERVING on 127.0.0.1:4321 after",
        "poems 1 champion",
        "$ rhapsode generate",
        "the poem from 127.0.0.1:4321",
        "Drained and stopped in",
        "== Done: install 30 s, train 0 s, serve",
        "make serve",
    )
    places = [output.find(part) for part in parts]
    assert -1 not in places
    assert places == sorted(places)
    assert (tmp_path / "drained").exists()


def test_a_failed_training_ends_it(start):
    code, output = outcome(start(train="echo 'the loss is no number'; exit 4"))
    assert code == 1
    assert "the loss is no number" in output
    assert "demo: rhapsode-train run ended with exit code 4" in output
    assert "rhapsode-serve" not in output


def test_a_server_that_ends_early_shows_what_it_wrote(start):
    code, output = outcome(start(serve="echo 'models: no such folder' >&2; exit 2"))
    assert code == 1
    assert "models: no such folder" in output
    assert "demo: rhapsode-serve ended with exit code 2 before it named its address" in output


def test_a_server_that_does_not_stop_well_is_a_failure(start):
    code, output = outcome(start(serve=SERVE.replace("exit 0", "exit 1")))
    assert code == 1
    assert "draining" in output
    assert "demo: rhapsode-serve ended with exit code 1" in output


def test_a_failed_poem_stops_the_server(start, tmp_path: Path):
    code, output = outcome(start(client=CLIENT.replace("generate) echo", "generate) exit 3; echo")))
    assert code == 1
    assert "demo: rhapsode generate ended with exit code 3" in output
    assert not is_running(int((tmp_path / "pid").read_text()))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_stops_the_server(start, tmp_path: Path, number: signal.Signals):
    process = start(client=CLIENT.replace("generate) echo", "generate) echo begun; exec sleep 600 #"))
    read_until(process, "begun")
    process.send_signal(number)
    code, output = outcome(process)
    assert code == 128 + number
    assert "Traceback" not in output
    assert (tmp_path / "drained").exists()
    assert not is_running(int((tmp_path / "pid").read_text()))


def test_an_interruption_stops_the_training(start, tmp_path: Path):
    process = start(train="echo $$ > pid; echo begun; exec sleep 600")
    read_until(process, "begun")
    process.send_signal(signal.SIGINT)
    code, output = outcome(process)
    assert code == 128 + signal.SIGINT
    assert "Traceback" not in output
    assert not is_running(int((tmp_path / "pid").read_text()))
