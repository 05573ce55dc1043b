"""Compiles the one module that Triton would compile in C when it first meets a GPU: images have no compiler.

python triton_driver.py FOLDER    leaves cuda_utils.so and its source there; neither where Triton is not installed
"""

import shutil
import subprocess
import sys
import sysconfig
import tempfile
from importlib.util import find_spec
from pathlib import Path


def main(folder: Path) -> None:
    """Raises CalledProcessError when the compiler refuses it."""
    folder.mkdir(parents=True)
    triton = find_spec("triton")
    if triton is None or triton.origin is None:
        return
    backend = Path(triton.origin).parent / "backends" / "nvidia"
    shutil.copy(backend / "driver.c", folder)
    with tempfile.TemporaryDirectory() as libraries:
        compile_stand_in(Path(libraries, "libcuda.so.1"))
        headers = ["-I", str(backend / "include"), "-I", sysconfig.get_path("include", "posix_prefix")]
        link = ["-L", libraries, "-l:libcuda.so.1", "-o", str(folder / "cuda_utils.so")]
        run("-O3", "-fPIC", "-Wno-psabi", *headers, str(folder / "driver.c"), *link)


def compile_stand_in(path: Path) -> None:
    """An empty library of this name to link with: the real one comes with the machine that has the GPU."""
    run("-x", "c", "/dev/null", f"-Wl,-soname,{path.name}", "-o", str(path))


def run(*arguments: str) -> None:
    subprocess.run(["cc", "-shared", "-Wl,--no-as-needed", *arguments], check=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
