"""A publisher of whole versions in a process of its own, for tests that kill it. Imports nothing but the disk contract.

    version_publisher.py FOLDER CLOCK_OFFSET SOURCE...

Publishes copies of the SOURCE folders in turn as champions of the model FOLDER, on a clock CLOCK_OFFSET seconds ahead,
until it is killed. Standard output tells the phases, one byte each: `(` a publish begins, `)` it is done.
"""

import os
import shutil
import sys
import time
from itertools import cycle
from pathlib import Path
from types import SimpleNamespace

from rhapsode_contract.model_directory import Lease, ModelFolder, lease, publish

MANIFEST = "MANIFEST.json"


def main(path: str, clock_offset: str, *sources: str) -> None:
    lease.time = SimpleNamespace(time=lambda: time.time() + float(clock_offset))
    folder = ModelFolder(Path(path))
    with Lease.acquire(folder, owner="publisher") as held:
        for source in cycle(sources):
            os.write(1, b"(")
            publish_copy(folder, held, Path(source))
            os.write(1, b")")


def publish_copy(folder: ModelFolder, held: Lease, source: Path) -> None:
    def write(staging: Path) -> None:
        shutil.copytree(source, staging, ignore=shutil.ignore_patterns(MANIFEST), dirs_exist_ok=True)

    publish(folder, held, write=write, dtype="float32", parameter_count=1, actor="publisher", reason="test")


if __name__ == "__main__":
    main(*sys.argv[1:])
