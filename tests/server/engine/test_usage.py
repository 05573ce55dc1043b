"""What a process takes of its machine."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from rhapsode_server.engine.usage import DeviceUsage, Usage, measure_usage


def test_its_memory_is_what_the_system_says(tmp_path: Path) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/statm").write_text("9000 700 60 5 0 4 0\n")
    assert measure_usage(root=tmp_path) == Usage(memory=700 * os.sysconf("SC_PAGE_SIZE"))


def test_a_process_that_imported_torch_is_not_small() -> None:
    usage = measure_usage("cpu")
    assert usage.memory > 50 << 20
    assert usage.device is None


def test_without_the_systems_files_it_is_0(tmp_path: Path) -> None:
    assert measure_usage(root=tmp_path).memory == 0


def no_package(device: str) -> int:
    raise ModuleNotFoundError("nvidia-ml-py does not seem to be installed or it can't be imported.")


@pytest.mark.parametrize(("ask", "told"), [(lambda device: 75, 0.75), (no_package, None)])
def test_a_gpu_as_a_whole(monkeypatch: pytest.MonkeyPatch, ask: Callable[[str], int], told: float | None) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2 << 30, 8 << 30))
    monkeypatch.setattr(torch.cuda, "utilization", ask)
    expected = DeviceUsage(name="cuda:0", memory_used=6 << 30, memory_total=8 << 30, utilization=told)
    assert measure_usage("cuda:0").device == expected


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_real_gpu() -> None:
    taken = torch.ones(1 << 20, device="cuda:0")
    device = measure_usage("cuda:0").device
    assert device is not None
    assert taken.nbytes <= device.memory_used <= device.memory_total
    assert device.utilization is None or 0 <= device.utilization <= 1
