"""One look at the model directory, and what is passed over in it."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from rhapsode_contract.model_directory import files
from rhapsode_server.models import scan as scan_module
from rhapsode_server.models.scan import ScannedModel, Unreadable, fingerprint, scan


@pytest.fixture
def version(tmp_path: Path) -> Path:
    return make_version(tmp_path / "models", 1)


def make_version(root: Path, number: int) -> Path:
    path = root / "tiny" / str(number)
    (path / "adapters").mkdir(parents=True)
    for name in ("MANIFEST.json", "adapters/a.json"):
        (path / name).write_text("{}")
    return path


def change(path: Path) -> None:
    path.write_text("[1]")


@pytest.mark.parametrize(
    "do",
    [
        lambda path: change(path / "adapters/a.json"),
        lambda path: change(path / "new.json"),
        lambda path: (path / "adapters/a.json").unlink(),
        lambda path: (path / "adapters/a.json").rename(path / "adapters/b.json"),
        lambda path: os.utime(path / "MANIFEST.json", ns=(0, 1)),
        lambda path: (path / "loop").symlink_to("loop"),
    ],
    ids=["content", "new", "removed", "renamed", "touched", "link"],
)
def test_the_fingerprint_changes_with_the_files(version: Path, do: Callable[[Path], object]) -> None:
    before = fingerprint(version)
    assert fingerprint(version) == before
    do(version)
    assert fingerprint(version) != before


def test_links_are_not_followed(version: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (version / "folder").symlink_to(elsewhere)
    (version / "file").symlink_to(elsewhere / "file")
    (version / "loop").symlink_to("loop")
    before = fingerprint(version)
    change(elsewhere / "file")
    assert fingerprint(version) == before


def test_a_folder_that_is_gone_has_a_fingerprint_of_its_own(version: Path, tmp_path: Path) -> None:
    assert fingerprint(tmp_path / "nowhere") != fingerprint(version)


def test_a_name_that_is_not_utf_8_has_a_fingerprint(version: Path) -> None:
    before = fingerprint(version)
    (version / os.fsdecode(b"\xff\x1b")).touch()
    assert fingerprint(version) != before


def test_a_version_that_cannot_be_read_has_no_fingerprint_and_hides_no_other(
    version: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_version(tmp_path / "models", 2)
    walk_files = files.walk_files

    def failing(path: Path) -> object:
        if path == version:
            raise OSError(5, "Input/output error", str(path))
        return walk_files(path)

    monkeypatch.setattr(scan_module.files, "walk_files", failing)
    [found] = scan(tmp_path / "models", {"tiny": [1, 2, 3]})
    assert isinstance(found, ScannedModel)
    assert set(found.paths) == {1, 2}
    assert dict(found.fingerprints) == {2: fingerprint(version.parent / "2")}
    with pytest.raises(OSError, match="Input/output"):
        fingerprint(version)


@pytest.mark.parametrize("name", ["aliases.json", "traffic.json"])
def test_a_pipe_makes_a_model_unreadable_and_blocks_nobody(version: Path, tmp_path: Path, name: str) -> None:
    os.mkfifo(version.parent / name)
    [found] = scan(tmp_path / "models", {})
    assert isinstance(found, Unreadable)
    assert f"{name}: " in found.why
    assert "not a regular file" in found.why
