import os
import stat
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from rhapsode_contract.model_directory import (
    Lease,
    LeaseLost,
    ModelFolder,
    VerificationError,
    collect_garbage,
    files,
    publish,
    verify_version,
)

Publish = Callable[..., int]


def test_versions_count_up_and_the_champion_follows(folder: ModelFolder, publish_one: Publish) -> None:
    assert [publish_one() for _ in range(3)] == [1, 2, 3]
    assert folder.versions() == [1, 2, 3]
    assert folder.aliases() == {"champion": 3, "previous": 2}
    assert [move["to"] for move in folder.history()] == [1, 2, 3]
    for version in folder.versions():
        assert verify_version(folder.version_path(version)).parameter_count == 7


def test_the_load_check_sees_the_published_folder_before_the_alias_moves(
    folder: ModelFolder, publish_one: Publish
) -> None:
    seen: list[tuple[Path, dict[str, int]]] = []
    publish_one(load_check=lambda path: seen.append((path, folder.aliases())))
    assert seen == [(folder.path / "1", {})]


def test_a_version_that_does_not_load_stays_without_an_alias(folder: ModelFolder, publish_one: Publish) -> None:
    publish_one()

    def fail(path: Path) -> None:
        raise RuntimeError(f"{path} does not load")

    with pytest.raises(RuntimeError, match="does not load"):
        publish_one(load_check=fail)
    assert folder.versions() == [1, 2]
    assert folder.aliases() == {"champion": 1}
    assert publish_one() == 3


@pytest.mark.parametrize(
    "change",
    [{"dtype": ""}, {"parameter_count": 0}, {"alias": "9"}, {"write": lambda staging: None}],
    ids=lambda change: next(iter(change)),
)
def test_a_bad_argument_publishes_nothing(folder: ModelFolder, publish_one: Publish, change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="|".join([*change, "files"])):
        publish_one(**change)
    assert folder.versions() == []
    assert list(folder.path.glob(".staging/*")) == []


@pytest.mark.parametrize("name", ["pytorch_model.bin", "training_args.bin", "optimizer.pt", "a.pth", "state.pkl"])
def test_a_pickle_is_refused_by_name(folder: ModelFolder, publish_one: Publish, name: str) -> None:
    with pytest.raises(ValueError, match=name):
        publish_one(write=lambda staging: (staging / name).touch())
    assert folder.versions() == []


def test_dead_staging_folders_are_swept(folder: ModelFolder, publish_one: Publish) -> None:
    dead = folder.path / ".staging" / "dead" / "sub"
    dead.mkdir(parents=True)
    (dead / "half.safetensors").write_bytes(b"half")
    (dead / "link").symlink_to("/")
    publish_one()
    assert list((folder.path / ".staging").iterdir()) == []


@pytest.mark.parametrize("obstacle", ["empty folder", "file", "link", "half a version"])
def test_whatever_has_the_next_number_is_stepped_over(folder: ModelFolder, publish_one: Publish, obstacle: str) -> None:
    publish_one()
    path = folder.path / "2"
    if obstacle == "file":
        path.touch()
    elif obstacle == "link":
        path.symlink_to("1")
    else:
        path.mkdir()
        if obstacle == "half a version":
            (path / "config.json").touch()
    assert publish_one() == 3
    assert folder.versions() == [1, 3]


def test_an_existing_version_is_never_replaced(folder: ModelFolder, publish_one: Publish, tmp_path: Path) -> None:
    publish_one()
    before = (folder.path / "1/MANIFEST.json").read_bytes()
    (tmp_path / "other").mkdir()
    with pytest.raises(FileExistsError, match="never replaced"):
        files.move_directory(tmp_path / "other", folder.path / "1")
    with pytest.raises(OSError, match="not empty"):
        os.rename(tmp_path / "other", folder.path / "1")
    assert (folder.path / "1/MANIFEST.json").read_bytes() == before


def test_numbers_are_not_reused_after_garbage_collection(folder: ModelFolder, publish_one: Publish) -> None:
    for _ in range(4):
        publish_one()
    with Lease.acquire(folder, owner="test") as lease:
        assert collect_garbage(folder, lease, keep=1, grace=timedelta(0)) == [1, 2]
    assert publish_one() == 5


@pytest.mark.parametrize("trace", ["aliases", "history", "trash"])
def test_any_trace_of_a_number_forbids_its_reuse(folder: ModelFolder, publish_one: Publish, trace: str) -> None:
    publish_one()
    if trace == "aliases":
        (folder.path / "aliases.json").write_text('{"candidate": 41}')
    elif trace == "history":
        with (folder.path / "history.jsonl").open("a") as history:
            history.write('{"alias": "candidate", "from": null, "to": 41}\n')
    else:
        (folder.path / ".trash" / "41-1700000000").mkdir(parents=True)
    assert publish_one() == 42


def test_no_alias_moves_to_a_version_that_did_not_arrive_whole(
    folder: ModelFolder, publish_one: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    def move_without_the_weights(source: Path, destination: Path) -> None:
        source.rename(destination)
        (destination / "model.safetensors").unlink()

    monkeypatch.setattr(files, "move_directory", move_without_the_weights)
    with pytest.raises(VerificationError, match=r"missing_file: model\.safetensors"):
        publish_one()
    assert folder.aliases() == {}


def test_a_lost_lease_is_the_cause_reported_for_files_swept_away(folder: ModelFolder) -> None:
    def lose(staging: Path) -> None:
        (folder.path / ".lease").write_bytes(b"")
        files.remove_tree(staging)
        (staging / "config.json").write_text("{}")

    with Lease.acquire(folder, owner="slow") as lease, pytest.raises(LeaseLost, match="poems"):
        publish(folder, lease, write=lose, dtype="float32", parameter_count=1, actor="a", reason="r")
    assert folder.versions() == []


def test_published_files_are_readable_by_a_server_of_another_user(folder: ModelFolder, publish_one: Publish) -> None:
    umask = os.umask(0o022)
    try:
        publish_one()
    finally:
        os.umask(umask)
    for name in ("aliases.json", "history.jsonl", "1/MANIFEST.json", "1/config.json"):
        assert stat.S_IMODE((folder.path / name).stat().st_mode) == 0o644
    assert stat.S_IMODE((folder.path / "1").stat().st_mode) == 0o755


def test_short_writes_are_completed(folder: ModelFolder, publish_one: Publish, monkeypatch: pytest.MonkeyPatch) -> None:
    class Dribble:
        def __getattr__(self, name: str) -> object:
            return getattr(os, name)

        def write(self, descriptor: int, data: memoryview) -> int:
            return os.write(descriptor, data[:3])

    monkeypatch.setattr(files, "os", Dribble())
    publish_one()
    verify_version(folder.version_path(folder.resolve("champion")))
    assert len(folder.history()) == 1
