"""How the kernels are compiled and loaded, and that they compute alike on any machine."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from rhapsode_server.engine import kernels
from rhapsode_server.engine.attention import AttentionOptions
from rhapsode_server.engine.batch import Row
from rhapsode_server.engine.cpu_attention import CpuBatch
from rhapsode_server.engine.kernels import compile as compiler
from rhapsode_server.engine.kernels import decode_attention
from rhapsode_server.engine.kv_cache import KVCache
from torch import Tensor

needs_kernels = pytest.mark.skipif(kernels.library() is None, reason="the kernels are not built")
needs_compiler = pytest.mark.skipif(shutil.which("c++") is None, reason="needs a C++ compiler")


@pytest.fixture
def load_again() -> Iterator[None]:
    """What is asked for first loads the library; these tests ask anew."""
    kernels.library.cache_clear()
    yield
    kernels.library.cache_clear()


def decoded() -> Tensor:
    """Some attention with every option."""
    torch.manual_seed(0)
    options = AttentionOptions(scaling=0.5, sliding_window=70, softcap=4.0, sinks=torch.randn(6))
    cache, outputs = KVCache(), []
    for start, num_tokens in ((0, 99), (99, 1), (100, 1)):
        rows = [
            Row(slot=slot, start=start, num_tokens=num_tokens, token_ids=None, num_reserved_tokens=101)
            for slot in range(2)
        ]
        inputs = (torch.randn(1, heads, 2 * num_tokens, 72) for heads in (6, 2, 2))
        outputs.append(CpuBatch(rows, cache).attend(*inputs, options))
    return torch.cat(outputs, dim=1)


@needs_kernels
@needs_compiler
def test_what_any_machine_understands_computes_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    expected = decoded()
    compiler.compile_library(tmp_path / "portable.so", ["-DRHAPSODE_PORTABLE"])
    monkeypatch.setattr(kernels, "LIBRARY", tmp_path / "portable.so")
    portable = kernels.library.__wrapped__()
    portable.rhapsode_decode_attention.argtypes = decode_attention._kernel().argtypes
    monkeypatch.setattr(decode_attention, "_kernel", lambda: portable.rhapsode_decode_attention)
    torch.testing.assert_close(decoded(), expected, rtol=1e-5, atol=1e-6)


@needs_kernels
def test_they_run_on_the_threads_of_torch():
    assert "OpenMP" not in torch.__config__.parallel_info() or kernels._parallel_regions_of_torch()


@pytest.mark.usefixtures("load_again")
def test_they_can_be_turned_off(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RHAPSODE_KERNELS", "off")
    assert kernels.library() is None


@pytest.mark.usefixtures("load_again")
def test_where_they_were_not_built_there_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(kernels, "LIBRARY", tmp_path / "_kernels.so")
    assert kernels.library() is None


@needs_kernels
@pytest.mark.usefixtures("load_again")
def test_those_of_other_sources_are_not_used(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(kernels, "sources_hash", lambda: "other")
    assert kernels.library() is None
    assert "install the server again" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "reason"), [("no-such-compiler", "no C\\+\\+ compiler"), ("false", "false failed")]
)
def test_without_a_compiler_the_reason_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, reason: str
):
    target = tmp_path / "_kernels.so"
    target.write_text("as it was")
    monkeypatch.setenv("CXX", command)
    with pytest.raises(compiler.CompilationError, match=reason):
        compiler.compile_library(target)
    assert [path.name for path in tmp_path.iterdir()] == ["_kernels.so"]
    assert target.read_text() == "as it was"


def test_every_source_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    shutil.copytree(compiler.FOLDER, tmp_path / "kernels")
    before = compiler.sources_hash()
    monkeypatch.setattr(compiler, "FOLDER", tmp_path / "kernels")
    assert compiler.sources_hash() == before
    for name in ("simd.h", "attention.cpp"):
        with (tmp_path / "kernels" / name).open("a") as source:
            source.write("\n")
        assert compiler.sources_hash() != before
        before = compiler.sources_hash()
