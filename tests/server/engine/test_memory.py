"""What is free, and what of it a version may take."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rhapsode_server.engine import memory
from rhapsode_server.engine.host_memory import Memory, host_memory
from rhapsode_server.engine.memory import BLOCK_SIZE, check_room, size_cache
from rhapsode_server.engine.options import EngineOptions
from rhapsode_server.engine.refusal import ModelRefused, is_out_of_memory
from support.tiny_models import VOCABULARY_SIZE, tiny_model

CPU = torch.device("cpu")
GIB = 1 << 30
UNLIMITED = str(0x7FFFFFFFFFFFF000)


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


MACHINE = {"proc/meminfo": f"MemTotal: {8 * GIB >> 10} kB\nMemFree: 5 kB\nMemAvailable: {6 * GIB >> 10} kB\n"}


def v2(limit: int | str, used: int, idle: int = 0) -> dict[str, str]:
    return {"memory.max": f"{limit}\n", "memory.current": f"{used}\n", "memory.stat": f"anon 7\ninactive_file {idle}\n"}


def v1(limit: int | str, used: int, idle: int = 0) -> dict[str, str]:
    return {
        "memory.limit_in_bytes": f"{limit}\n",
        "memory.usage_in_bytes": f"{used}\n",
        "memory.stat": f"inactive_file 1\ntotal_inactive_file {idle}\n",
    }


def at(folder: str, files: dict[str, str]) -> dict[str, str]:
    return {f"sys/fs/cgroup/{folder}{name}": text for name, text in files.items()}


@pytest.mark.parametrize(
    ("files", "total", "free"),
    [
        ({}, 8, 6),
        ({"proc/self/cgroup": "0::/\n"}, 8, 6),
        ({"proc/self/cgroup": "0::/\n"} | at("", v2(4 * GIB, 3 * GIB)), 4, 1),
        ({"proc/self/cgroup": "0::/\n"} | at("", v2(4 * GIB, 3 * GIB, idle=GIB)), 4, 2),
        ({"proc/self/cgroup": "0::/\n"} | at("", v2("max", 3 * GIB)), 8, 6),
        ({"proc/self/cgroup": "0::/a/b\n"} | at("a/b/", v2("max", GIB)) | at("a/", v2(2 * GIB, GIB)), 2, 1),
        ({"proc/self/cgroup": "0::/a/b\n"} | at("", v2(3 * GIB, 9 * GIB)), 3, 0),
        ({"proc/self/cgroup": "4:memory:/x\n0::/\n"} | at("memory/x/", v1(4 * GIB, GIB, idle=GIB)), 4, 4),
        ({"proc/self/cgroup": "4:memory:/x\n0::/\n"} | at("memory/", v1(4 * GIB, GIB)), 4, 3),
        ({"proc/self/cgroup": "4:cpu,memory:/\n"} | at("memory/", v1(UNLIMITED, GIB)), 8, 6),
    ],
    ids=str,
)
def test_the_host_is_the_machine_or_its_tightest_group(
    tmp_path: Path, files: dict[str, str], total: int, free: int
) -> None:
    assert host_memory(write(tmp_path, MACHINE | files)) == Memory(total=total * GIB, free=free * GIB)


def test_this_host_has_some() -> None:
    here = host_memory()
    assert 0 < here.free <= here.total


@pytest.fixture
def there(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets what the device has."""

    def set_memory(total: int, free: int) -> None:
        monkeypatch.setattr(memory, "host_memory", lambda: Memory(total=total, free=free))

    return set_memory


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("version")
    tiny_model("gpt2").save_pretrained(path)
    return path


def options(path: Path, **overrides: Any) -> EngineOptions:
    return EngineOptions(path=str(path), vocabulary_size=VOCABULARY_SIZE, device="cpu", **overrides)


NUM_PARAMETERS = sum(parameter.numel() for parameter in tiny_model("gpt2").parameters())
WEIGHTS = 4 * NUM_PARAMETERS


def test_weights_that_fit_exactly_are_loaded(path: Path, there: Any) -> None:
    there(2 * WEIGHTS, WEIGHTS)
    check_room(options(path, device_memory_fraction=0.5), CPU, torch.float32)


@pytest.mark.parametrize(
    ("total", "free", "overrides", "refused"),
    [
        (9 * GIB, 1000, {}, "out_of_memory: .* 9.31e-07 GiB are free on cpu"),
        (9 * GIB, WEIGHTS + 9, {"kv_cache_memory": 10}, "out_of_memory: .* are free on cpu"),
        (2 * WEIGHTS, 2 * WEIGHTS, {"device_memory_fraction": 0.4}, "too_large: .* are its share of cpu"),
    ],
)
def test_weights_that_cannot_fit_are_refused_before_they_are_loaded(
    path: Path, there: Any, total: int, free: int, overrides: dict[str, Any], refused: str
) -> None:
    there(total, free)
    with pytest.raises(ModelRefused, match=refused):
        check_room(options(path, **overrides), CPU, torch.float32)


def test_half_the_bytes_fit_where_all_do_not(path: Path, there: Any) -> None:
    there(9 * GIB, 2 * NUM_PARAMETERS)
    check_room(options(path), CPU, torch.bfloat16)
    with pytest.raises(ModelRefused):
        check_room(options(path), CPU, torch.float32)


def test_int8_is_loaded_in_float32_and_then_takes_a_quarter(path: Path, there: Any) -> None:
    there(NUM_PARAMETERS, WEIGHTS)
    check_room(options(path, quantization="int8", device_memory_fraction=1.0), CPU, torch.float32)
    there(9 * GIB, WEIGHTS - 1)
    with pytest.raises(ModelRefused, match="are free"):
        check_room(options(path, quantization="int8"), CPU, torch.float32)


def test_files_that_cannot_be_read_are_left_to_the_loader(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 100)
    check_room(options(tmp_path), CPU, torch.float32)


@settings(max_examples=50)
@given(
    total=st.integers(1, 100 * GIB),
    free=st.integers(0, 100 * GIB),
    fraction=st.floats(0.01, 1.0),
    bytes_per_token=st.integers(1, 10**6),
    most_tokens=st.integers(BLOCK_SIZE, 10**6),
)
def test_a_worker_stays_within_its_share_and_what_is_free(
    total: int, free: int, fraction: float, bytes_per_token: int, most_tokens: int
) -> None:
    shared = options(Path("unused"), device_memory_fraction=fraction)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "host_memory", lambda: Memory(total=total, free=free))
        try:
            size = size_cache(shared, tiny_model("gpt2"), bytes_per_token=bytes_per_token, most_tokens=most_tokens)
        except ModelRefused:
            assert total * fraction < WEIGHTS + 256 * bytes_per_token or free < 256 * bytes_per_token
            return
    cache = size.num_blocks * BLOCK_SIZE * bytes_per_token
    assert size.memory_bytes <= total * fraction
    assert size.memory_bytes - cache == pytest.approx(WEIGHTS, rel=0.01)
    assert 0 < cache <= free
    assert size.num_blocks * BLOCK_SIZE <= most_tokens


@pytest.mark.parametrize(
    ("error", "is_so"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), True),
        (RuntimeError("std::bad_alloc"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("shape mismatch"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_failed_allocations_are_told_from_other_errors(error: Exception, is_so: bool) -> None:
    assert is_out_of_memory(error) is is_so


def test_what_torch_says_on_this_machine_is_known() -> None:
    with pytest.raises((RuntimeError, MemoryError)) as error:
        torch.empty(1 << 60, dtype=torch.int8)
    assert is_out_of_memory(error.value)
