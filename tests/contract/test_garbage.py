from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from rhapsode_contract.model_directory import Lease, LeaseLost, ModelFolder, collect_garbage, garbage

Publish = Callable[..., int]
DAY = timedelta(days=1)


def collect(folder: ModelFolder, *, keep: int, grace: timedelta) -> list[int]:
    with Lease.acquire(folder, owner="test") as lease:
        return collect_garbage(folder, lease, keep=keep, grace=grace)


def test_aliased_and_newest_versions_stay(folder: ModelFolder, publish_one: Publish) -> None:
    for alias in ["champion", None, "candidate", None, None, "champion", None, None]:
        publish_one(alias=alias)
    assert folder.aliases() == {"champion": 6, "previous": 1, "candidate": 3}
    assert collect(folder, keep=2, grace=DAY) == [2, 4, 5]
    assert folder.versions() == [1, 3, 6, 7, 8]
    assert sorted(folder.trash()) == [2, 4, 5]
    assert collect(folder, keep=2, grace=DAY) == []


def test_the_trash_is_emptied_only_after_the_grace(
    folder: ModelFolder, publish_one: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(4):
        publish_one()
    assert collect(folder, keep=1, grace=DAY) == [1, 2]
    (thrown_away,) = set(folder.trash().values())
    monkeypatch.setattr(garbage, "time", SimpleNamespace(time=lambda: thrown_away + DAY.total_seconds() - 1))
    collect(folder, keep=1, grace=DAY)
    assert sorted(folder.trash()) == [1, 2]
    monkeypatch.setattr(garbage, "time", SimpleNamespace(time=lambda: thrown_away + DAY.total_seconds()))
    collect(folder, keep=1, grace=DAY)
    assert folder.trash() == {}


def test_foreign_things_in_the_trash_are_left_alone(folder: ModelFolder, publish_one: Publish) -> None:
    publish_one()
    foreign = folder.path / ".trash" / "notes"
    foreign.mkdir(parents=True)
    collect(folder, keep=1, grace=timedelta(0))
    assert foreign.is_dir()


def test_the_newest_version_cannot_be_collected(folder: ModelFolder, publish_one: Publish) -> None:
    publish_one(alias=None)
    with pytest.raises(ValueError, match="keep"):
        collect(folder, keep=0, grace=DAY)
    assert folder.versions() == [1]


def test_nothing_is_collected_without_the_lease(folder: ModelFolder, publish_one: Publish) -> None:
    for _ in range(3):
        publish_one(alias=None)
    with Lease.acquire(folder, owner="test") as lease:
        lease.release()
        with pytest.raises(LeaseLost):
            collect_garbage(folder, lease, keep=1, grace=DAY)
    assert folder.versions() == [1, 2, 3]


def test_a_model_without_versions_has_no_garbage(folder: ModelFolder, tmp_path: Path) -> None:
    assert collect(folder, keep=1, grace=DAY) == []
