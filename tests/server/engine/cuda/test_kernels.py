"""The kernels without a GPU: Triton's interpreter says what they compute, its compiler that a GPU can be told to.

No test here has run them on a GPU; those of `test_gpu.py` do.
"""

import os
import subprocess
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

HAS_TRITON = find_spec("triton") is not None
# Its interpreter then takes an array of one number for a number, as NumPy does no more from 2.4 on.
IS_TOO_OLD = HAS_TRITON and tuple(map(int, version("triton").split(".")[:2])) < (3, 7)

pytestmark = pytest.mark.skipif(not HAS_TRITON, reason="Triton is not installed")


@pytest.mark.slow
@pytest.mark.skipif(IS_TOO_OLD, reason="the interpreter of Triton before 3.7 does not run with this NumPy")
def test_the_kernels_compute_what_their_torch_forms_do() -> None:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        str(Path(__file__).parent / "interpreted.py"),
    ]
    environment = os.environ | {"TRITON_INTERPRET": "1", "HF_HUB_OFFLINE": "1"}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)
    assert ran.returncode == 0, ran.stdout[-5000:] + ran.stderr[-2000:]


@pytest.fixture
def compile_kernel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """For an H100 or H200, down to what such a GPU executes."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    def run(kernel: Any, types: dict[str, str], constants: dict[str, Any]) -> Any:
        signature = {name: types.get(name, "constexpr") for name in kernel.arg_names}
        indices = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
        return compile(ASTSource(kernel, signature, indices), target=GPUTarget("cuda", 90, 32))

    return run


def test_attention_compiles(compile_kernel: Any) -> None:
    from rhapsode_server.engine.cuda import attention_kernel

    numbers = dict.fromkeys(("query", "key", "value", "key_blocks", "value_blocks", "sinks"), "*bf16")
    strides = dict.fromkeys(("query_stride", "key_stride", "value_stride"), "i32")
    others = {"tables": "*i32", "slots": "*i64", "positions": "*i64"}
    parts = dict.fromkeys(("parts", "softmax"), "*fp32")
    options = {"SCALING": 0.125, "WINDOW": 1024, "SOFTCAP": 50.0, "SPLITS": 4}
    heads = {"KV_HEADS": 4, "GROUP": 4, "GROUP_PADDED": 16}
    shapes = {"KEY_DIM": 80, "KEY_PADDED": 128, "VALUE_DIM": 80, "VALUE_PADDED": 128}
    memory = {"TABLE_SIZE": 65}
    compiled = compile_kernel(
        attention_kernel._attend_to_part, numbers | strides | others | parts, options | heads | shapes | memory
    )
    assert compiled.asm["cubin"]
    assert "mma" in compiled.asm["ptx"], "groups of heads go to the tensor cores"
    assert ".local" not in compiled.asm["ptx"], "registers are enough"
    parts |= {"output": "*bf16"}
    assert compile_kernel(attention_kernel._put_together, parts, {"DIM": 80, "PADDED": 128, "SPLITS": 4}).asm["cubin"]


def test_the_draw_compiles(compile_kernel: Any) -> None:
    from rhapsode_server.engine.cuda import draw_kernel

    row = {"seeds": "*i64", "positions": "*i64", "temperatures": "*fp64", "peaks": "*fp32"}
    tiles = {"sums": "*fp32", "ids": "*i32"}
    constants = {"VOCABULARY_SIZE": 50257, "NUM_TILES": 50, "TILE": draw_kernel._TILE}
    types = {"logits": "*bf16", "row_stride": "i32"} | row | tiles
    assert compile_kernel(draw_kernel._best_of_tile, types, constants).asm["cubin"]
    constants = {"NUM_TILES": 50, "WIDTH": 64, "NOT_FINITE": -1}
    types = tiles | {"peaks": "*fp32", "tokens": "*i64"}
    assert compile_kernel(draw_kernel._best_of_row, types, constants).asm["cubin"]
