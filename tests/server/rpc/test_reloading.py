"""Files that change while they are in use."""

import logging
import os
from pathlib import Path

import pytest
from rhapsode_server.rpc.reloading import Reloading


def reloading(path: Path, reads: list[str]) -> Reloading[int]:
    def read() -> int:
        reads.append(path.name)
        try:
            return int(path.read_text())
        except OSError:
            raise ValueError("it is gone") from None

    return Reloading("--file", [path], read)


def test_it_is_read_once_for_each_change(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    path, reads = tmp_path / "file", list[str]()
    path.write_text("1")
    file = reloading(path, reads)
    assert [file.value, file.value] == [1, 1]
    path.write_text("22")
    assert [file.value, file.value] == [22, 22]
    assert len(reads) == 2
    assert caplog.messages == ["--file has changed and holds"]


def test_what_is_broken_changes_nothing_until_it_is_mended(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, reads = tmp_path / "file", list[str]()
    path.write_text("1")
    file = reloading(path, reads)
    path.write_text("broken")
    assert [file.value, file.value] == [1, 1]
    path.unlink()
    assert [file.value, file.value] == [1, 1]
    assert len(reads) == 3
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * 2
    assert caplog.messages[1] == "--file has changed and cannot be used, what it was before still holds: it is gone"
    path.write_text("2")
    assert file.value == 2


def test_a_volume_of_kubernetes_changes_by_a_link_to_another_folder(tmp_path: Path) -> None:
    for name, text in (("..first", "1"), ("..second", "2")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(text)
        os.utime(tmp_path / name / "file", ns=(10**18, 10**18))
    (tmp_path / "..data").symlink_to("..first")
    (tmp_path / "file").symlink_to("..data/file")
    file = reloading(tmp_path / "file", [])
    assert file.value == 1
    (tmp_path / "..new").symlink_to("..second")
    os.replace(tmp_path / "..new", tmp_path / "..data")
    assert file.value == 2


def test_what_is_broken_from_the_start_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="it is gone"):
        reloading(tmp_path / "file", [])
