from collections.abc import Callable, Collection
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from rhapsode_contract.model_directory import CorruptFile, Lease, LeaseLost, ModelFolder, collect_garbage, garbage

Publish = Callable[..., int]
DAY = timedelta(days=1)


def collect(folder: ModelFolder, *, keep: int, grace: timedelta, refused: Collection[int] = ()) -> list[int]:
    with Lease.acquire(folder, owner="test") as lease:
        return collect_garbage(folder, lease, keep=keep, grace=grace, refused=refused)


def test_aliased_and_newest_versions_stay(folder: ModelFolder, publish_one: Publish) -> None:
    for alias in ["champion", None, "candidate", None, None, "champion", None, None]:
        publish_one(alias=alias)
    assert folder.aliases() == {"champion": 6, "previous": 1, "candidate": 3}
    assert collect(folder, keep=2, grace=DAY) == [2, 4, 5]
    assert folder.versions() == [1, 3, 6, 7, 8]
    assert sorted(folder.trash()) == [2, 4, 5]
    assert collect(folder, keep=2, grace=DAY) == []


def test_pinned_versions_and_those_with_a_weight_stay(folder: ModelFolder, publish_one: Publish) -> None:
    for _ in range(7):
        publish_one(alias=None)
    with Lease.acquire(folder, owner="test") as lease:
        folder.set_alias("pinned", 2, lease=lease, actor="test", reason="because")
        folder.set_traffic({3: 1, 4: 0}, lease=lease, actor="test", reason="because")
    assert collect(folder, keep=1, grace=DAY) == [1, 5, 6]
    with Lease.acquire(folder, owner="test") as lease:
        folder.drop_alias("pinned", lease=lease, actor="test", reason="because")
        folder.set_traffic({}, lease=lease, actor="test", reason="because")
    assert collect(folder, keep=1, grace=DAY) == [2, 3, 4]


def test_nothing_is_collected_while_the_traffic_cannot_be_understood(folder: ModelFolder, publish_one: Publish) -> None:
    for _ in range(3):
        publish_one(alias=None)
    (folder.path / "traffic.json").write_text("{")
    with pytest.raises(CorruptFile, match=r"traffic\.json"):
        collect(folder, keep=1, grace=DAY)
    assert folder.versions() == [1, 2, 3]


def test_refused_versions_do_not_count_among_the_newest(folder: ModelFolder, publish_one: Publish) -> None:
    for alias in ["champion", None, None, "candidate", None, None]:
        publish_one(alias=alias)
    assert collect(folder, keep=2, grace=DAY, refused=(1, 4, 5, 6)) == [5]
    assert folder.versions() == [1, 2, 3, 4, 6], "aliased ones and the newest stay even when they are refused"


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
