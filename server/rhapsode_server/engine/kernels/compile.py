"""Compiles the kernels into one library beside their sources. Standard library only: the build hook runs it by path."""

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

FOLDER = Path(__file__).parent
# In a folder of its own: beside the modules it would look like one of Python's.
LIBRARY = FOLDER / "built" / "kernels.so"
BUILD = ("-std=c++17", "-O3", "-fPIC", "-shared", "-Wall", "-Wno-psabi")
ARITHMETIC = ("-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast")  # fast, and NaN stays NaN


class CompilationError(Exception):
    """There is no compiler, or it refused the sources; the text says which."""


def compile_library(target: Path = LIBRARY, extra_flags: Sequence[str] = ()) -> None:
    """Replace the library in one step, so that processes that run the old one go on. Raises CompilationError."""
    target.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        new = Path(folder) / target.name
        sources = map(str, sorted(FOLDER.glob("*.cpp")))
        stamp = f'-DRHAPSODE_SOURCES="{sources_hash()}"'
        _run([*_compiler(), *BUILD, *ARITHMETIC, *extra_flags, stamp, *sources, "-o", str(new)])
        new.replace(target)


def sources_hash() -> str:
    """What the library was made from: one that was made from something else is not loaded."""
    digest = hashlib.sha256()
    for path in sorted([*FOLDER.glob("*.cpp"), *FOLDER.glob("*.h")]):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def _compiler() -> list[str]:
    candidates = [os.environ["CXX"]] if os.environ.get("CXX") else ["c++", "g++", "clang++"]
    for candidate in candidates:
        command = candidate.split()
        if shutil.which(command[0]):
            return command
    raise CompilationError(f"no C++ compiler ({', '.join(candidates)})")


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise CompilationError(f"{command[0]} failed: {done.stderr.strip() or done.returncode}")
