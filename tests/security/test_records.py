"""What servers write for the trainer, and what versions say of themselves, neither hangs nor ends who reads it."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from rhapsode_contract.model_directory import ModelDirectory, ModelFolder
from rhapsode_trainer.commands.records import read_json, read_json_lines
from rhapsode_trainer.errors import ConfigError, SourceError
from rhapsode_trainer.evaluation.opponent import find_opponent

HOSTILE: dict[str, Callable[[Path], object]] = {
    "a pipe": os.mkfifo,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a link": lambda path: path.symlink_to("/etc/passwd"),
    "a folder": Path.mkdir,
    "deep": lambda path: path.write_text("[" * 200_000),
    "no JSON": lambda path: path.write_bytes(b"\xff\xfe"),
}


@pytest.fixture
def folder(tmp_path: Path) -> ModelFolder:
    """A champion, and nothing behind it."""
    folder = ModelDirectory(tmp_path / "models").model("poems")
    folder.path.mkdir(parents=True)
    (folder.path / "aliases.json").write_text('{"champion": 1}')
    return folder


@pytest.mark.parametrize("make", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_verdict_that_is_none_is_named(tmp_path: Path, folder: ModelFolder, make: Callable[[Path], object]) -> None:
    verdict = tmp_path / "feedback" / "poems" / "1.server.json"
    verdict.parent.mkdir(parents=True)
    make(verdict)
    with pytest.raises(ConfigError, match=str(verdict)):
        find_opponent(folder, tmp_path / "feedback")


def test_a_huge_verdict_is_not_read(tmp_path: Path, folder: ModelFolder) -> None:
    verdict = tmp_path / "feedback" / "poems" / "1.server.json"
    verdict.parent.mkdir(parents=True)
    verdict.touch()
    os.truncate(verdict, 2**40)
    with pytest.raises(ConfigError, match="more than 16 MiB"):
        find_opponent(folder, tmp_path / "feedback")


@pytest.mark.parametrize("make", HOSTILE.values(), ids=HOSTILE.keys())
@pytest.mark.parametrize("read", [read_json, read_json_lines])
def test_a_record_that_is_none_is_named(
    tmp_path: Path, make: Callable[[Path], object], read: Callable[[Path], object]
) -> None:
    make(tmp_path / "lineage.json")
    with pytest.raises(SourceError, match=r"lineage\.json"):
        read(tmp_path / "lineage.json")
