"""Cores that a process may use: those of its affinity, but no more than a container's limit pays for."""

import os
from pathlib import Path

import pytest
from rhapsode_server.engine.host_processors import available_cores, cores_of_affinity

V2, V1 = {"proc/self/cgroup": "0::/a/b\n"}, {"proc/self/cgroup": "4:cpu,cpuacct:/a\n2:memory:/x\n0::/\n"}


def v2(folder: str, limit: str) -> dict[str, str]:
    return {f"sys/fs/cgroup/{folder}cpu.max": f"{limit} 100000\n"}


def v1(folder: str, quota: int) -> dict[str, str]:
    at = f"sys/fs/cgroup/cpu/{folder}cpu.cfs_"
    return {f"{at}quota_us": f"{quota}\n", f"{at}period_us": "100000\n"}


def pairs(count: int) -> dict[str, str]:
    """Processors of which N and N + count / 2 are one core."""
    half = count // 2
    name = "sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
    return {name.format(number): f"{number % half},{number % half + half}\n" for number in range(count)}


@pytest.mark.parametrize(
    ("files", "allowed", "cores"),
    [
        ({}, 64, 64),
        (V2, 64, 64),
        (V2 | v2("a/b/", "max"), 64, 64),
        (V2 | v2("a/b/", "200000"), 64, 2),
        (V2 | v2("", "200000"), 64, 2),  # a container that sees its own group as the outermost
        (V2 | v2("a/b/", "max") | v2("a/", "300000"), 64, 3),
        (V2 | v2("a/b/", "800000") | v2("a/", "300000"), 64, 3),
        (V2 | v2("a/b/", "350000"), 64, 3),
        (V2 | v2("a/b/", "50000"), 64, 1),
        (V2 | v2("a/b/", "800000"), 4, 4),
        (V1 | v1("a/", 200000), 64, 2),
        (V1 | v1("", 200000), 64, 2),
        (V1 | v1("a/", -1), 64, 64),
        (pairs(64), 64, 32),
        (pairs(64) | V2 | v2("a/b/", "200000"), 64, 2),
        (pairs(8), 3, 3),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "\n"}, 2, 2),
    ],
    ids=str,
)
def test_the_tightest_bound_counts(tmp_path: Path, files: dict[str, str], allowed: int, cores: int) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert available_cores(tmp_path, range(allowed)) == cores


def test_here_it_is_no_more_than_the_affinity() -> None:
    assert 1 <= available_cores() <= len(os.sched_getaffinity(0))


def test_a_core_has_its_processors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in pairs(8).items():
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {5, 1, 2, 7})
    assert cores_of_affinity(tmp_path) == [{1, 5}, {2}, {7}]
