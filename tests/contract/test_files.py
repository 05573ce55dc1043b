import os
from pathlib import Path

import pytest
from rhapsode_contract.model_directory import files


class RecordingDisk:
    """`os` that notes what changes the disk, and whether a sync is one of a file or of a folder."""

    def __init__(self) -> None:
        self.log: list[str] = []

    def __getattr__(self, name: str) -> object:
        if name in ("write", "replace", "rename", "mkdir"):
            self.log.append(name)
        return getattr(os, name)

    def fsync(self, descriptor: int) -> None:
        self.log.append("sync folder" if os.path.isdir(descriptor) else "sync file")


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    disk = RecordingDisk()
    monkeypatch.setattr(files, "os", disk)
    return disk.log


def test_replace_file_syncs_the_content_before_the_name(tmp_path: Path, log: list[str]) -> None:
    (tmp_path / "a.json").write_text("old")
    files.replace_file(tmp_path / "a.json", b"new")
    assert log == ["write", "sync file", "replace", "sync folder"]
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.json", "new")]


def test_read_file_reads_what_write_file_wrote(tmp_path: Path) -> None:
    files.write_file(tmp_path / "a.json", b"abc" * 1000)
    assert files.read_file(tmp_path / "a.json") == files.read_file(tmp_path / "a.json", limit=None) == b"abc" * 1000


def test_links_are_followed_only_on_demand(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b"abc")
    (tmp_path / "link").symlink_to("a.json")
    assert files.read_file(tmp_path / "link", follow_links=True) == b"abc"
    with pytest.raises(ValueError, match="symbolic link"):
        files.read_file(tmp_path / "link")
    for write in (files.write_file, files.append_line):
        with pytest.raises(OSError, match="symbolic links"):
            write(tmp_path / "link", b"x")
    with pytest.raises(OSError, match="symbolic links"), files.locked(tmp_path / "link", wait=0):
        pass
    assert (tmp_path / "a.json").read_bytes() == b"abc"


def test_a_file_is_not_replaced_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "victim").write_bytes(b"abc")
    (tmp_path / "a.json.tmp").symlink_to("victim")
    with pytest.raises(OSError, match="symbolic links"):
        files.replace_file(tmp_path / "a.json", b"x")
    assert (tmp_path / "victim").read_bytes() == b"abc"


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_read_file_waits_for_nothing_that_is_no_file(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.json"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    with pytest.raises(ValueError, match="not a regular file"):
        files.read_file(path)


def test_read_file_takes_no_more_than_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.touch()
    os.truncate(path, files.SMALL_FILE)
    assert len(files.read_file(path)) == files.SMALL_FILE
    os.truncate(path, files.SMALL_FILE + 1)
    with pytest.raises(ValueError, match="16777217 bytes, more than 16 MiB"):
        files.read_file(path)
    assert len(files.read_file(path, limit=None)) == files.SMALL_FILE + 1


def test_append_line_is_durable_even_in_a_new_file(tmp_path: Path, log: list[str]) -> None:
    files.append_line(tmp_path / "a.jsonl", b"{}")
    assert log == ["write", "sync file", "sync folder"]


def test_move_directory_syncs_both_parents(tmp_path: Path, log: list[str]) -> None:
    (tmp_path / "a/version").mkdir(parents=True)
    files.move_directory(tmp_path / "a/version", tmp_path / "1")
    assert log == ["rename", "sync folder", "sync folder"]
    assert (tmp_path / "1").is_dir()


def test_make_directory_syncs_every_new_level(tmp_path: Path, log: list[str]) -> None:
    files.make_directory(tmp_path / "a/b")
    assert log == ["mkdir", "sync folder"] * 2
    files.make_directory(tmp_path / "a/b")
    assert len(log) == 4


def test_remove_tree_does_not_follow_links(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept/file").touch()
    (tmp_path / "tree/sub").mkdir(parents=True)
    (tmp_path / "tree/sub/link").symlink_to(tmp_path / "kept")
    (tmp_path / "tree/link").symlink_to(tmp_path / "kept/file")
    files.remove_tree(tmp_path / "tree")
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert (tmp_path / "kept/file").exists()


def test_a_lock_outlives_no_fork(tmp_path: Path) -> None:
    """A child forked while the lock is held (a data loader, say) must not keep it."""
    path = tmp_path / "lock"
    with files.locked(path, wait=0) as descriptor:
        inherited = os.dup(descriptor)
        with pytest.raises(files.LockBusyError), files.locked(path, wait=0):
            pass
    with files.locked(path, wait=0):
        os.close(inherited)
