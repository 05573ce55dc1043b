"""Triton finds the module that it would compile, made beforehand, where there is no compiler; no GPU is needed."""

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

IMAGES = Path(__file__).parents[2] / "deploy" / "images"
LOAD = "from triton.backends.nvidia.driver import CudaUtils; print(callable(CudaUtils().launch))"

pytestmark = [
    pytest.mark.skipif(find_spec("triton") is None, reason="needs triton: make install, on Linux"),
    pytest.mark.skipif(shutil.which("cc") is None or shutil.which("nm") is None, reason="needs a C compiler"),
]


def run(*command: str | Path, check: bool = True, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **variables}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=check)


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the build makes, with what the image has beside it."""
    folder = tmp_path_factory.mktemp("made") / "driver"
    run(sys.executable, IMAGES / "triton_driver.py", folder)
    shutil.copy(IMAGES / "cc", folder)
    return folder


@pytest.fixture(scope="module")
def libcuda(driver: Path) -> Path:
    """The folder of a library that has every function of CUDA's driver that Triton calls, and does nothing."""
    undefined = run("nm", "-D", "--undefined-only", driver / "cuda_utils.so").stdout.split()
    functions = [name for name in undefined if name.startswith("cu")]
    source = driver / "stand_in.c"
    source.write_text("".join(f"int {name}(void) {{ return 1; }}\n" for name in functions))
    run("cc", "-shared", "-Wl,-soname,libcuda.so.1", source, "-o", driver / "libcuda.so.1")
    return driver


def test_triton_takes_what_was_made(driver: Path, libcuda: Path, tmp_path: Path):
    places = {"TRITON_CACHE_DIR": str(tmp_path), "TRITON_LIBCUDA_PATH": str(libcuda), "LD_LIBRARY_PATH": str(libcuda)}
    assert run(sys.executable, "-c", LOAD, CC=str(driver / "cc"), **places).stdout == "True\n"
    (taken,) = tmp_path.rglob("cuda_utils*.so")
    assert taken.read_bytes() == (driver / "cuda_utils.so").read_bytes()


def test_the_library_of_the_machine_is_asked_for(driver: Path):
    assert "libcuda.so.1" in run("readelf", "-d", driver / "cuda_utils.so").stdout


@pytest.mark.parametrize("arguments", [[], ["other.c", "-o", "other.so"]])
def test_every_other_source_is_refused(driver: Path, tmp_path: Path, arguments: list[str]):
    (tmp_path / "other.c").write_text("int f(void) { return 0; }\n")
    done = subprocess.run([driver / "cc", *arguments], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "cc: this image has no compiler, only the driver of Triton compiled beforehand\n"
    assert not (tmp_path / "other.so").exists()


def test_without_triton_nothing_is_made(tmp_path: Path):
    run(sys.executable, "-S", IMAGES / "triton_driver.py", tmp_path / "driver")
    assert list((tmp_path / "driver").iterdir()) == []
