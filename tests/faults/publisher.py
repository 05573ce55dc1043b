"""A publisher in a process of its own, for tests that kill or stop it. Imports nothing but the disk contract.

    publisher.py FOLDER CLOCK_OFFSET BYTES STOP_AT

Publishes BYTES of weights into the model FOLDER, on a clock CLOCK_OFFSET seconds ahead. STOP_AT is where it stops
itself with SIGSTOP, to wake up an hour later by its clock: when the files are written (`filled`), about to rename the
folder (`rename`), when the version is to be loaded back (`load`), about to replace the aliases (`replace`), or `never`:
then it publishes until it is killed. Standard output tells the phases, one byte each: `(` a publish begins, `w` files
written, `l` renamed and verified, `)` published. Exit code 3: the lease was lost.
"""

import os
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace

from rhapsode_contract.model_directory import Lease, LeaseLost, ModelFolder, files, lease, publish

LEASE_LOST = 3
SLEEP_SECONDS = 3600.0


class Publisher:
    """Publishes on a clock and a disk of its own, and stops at one place."""

    def __init__(self, folder: ModelFolder, clock_offset: float, size: int, stop_at: str) -> None:
        self.folder = folder
        self.clock_offset = clock_offset
        self.size = size
        self.stop_at = stop_at

    def run(self) -> None:
        lease.time = SimpleNamespace(time=lambda: time.time() + self.clock_offset)
        files.os = StoppingDisk(self)
        with Lease.acquire(self.folder, owner="publisher") as held:
            self.publish(held)
            while self.stop_at == "never":
                self.publish(held)

    def publish(self, held: Lease) -> None:
        self.announce("(")
        publish(
            self.folder,
            held,
            write=self.fill,
            dtype="float32",
            parameter_count=1,
            actor="publisher",
            reason="test",
            load_check=self.load,
        )
        self.announce(")")

    def fill(self, staging: Path) -> None:
        (staging / "config.json").write_text("{}")
        for part in range(4):
            (staging / f"model-{part}.safetensors").write_bytes(os.urandom(self.size // 4))
        self.announce("w")
        self.reach("filled")

    def load(self, path: Path) -> None:
        self.announce("l")
        self.reach("load")

    def announce(self, phase: str) -> None:
        os.write(1, phase.encode())

    def reach(self, place: str) -> None:
        if place == self.stop_at:
            os.kill(os.getpid(), signal.SIGSTOP)
            self.clock_offset += SLEEP_SECONDS


class StoppingDisk:
    """`os`, each operation of which is a place to stop at."""

    def __init__(self, publisher: Publisher) -> None:
        self.publisher = publisher

    def __getattr__(self, name: str) -> object:
        self.publisher.reach(name)
        return getattr(os, name)


if __name__ == "__main__":
    path, clock_offset, size, stop_at = sys.argv[1:]
    try:
        Publisher(ModelFolder(Path(path)), float(clock_offset), int(size), stop_at).run()
    except LeaseLost as error:
        print(error, file=sys.stderr)
        sys.exit(LEASE_LOST)
