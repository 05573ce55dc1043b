import errno
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from rhapsode_contract.model_directory import (
    CorruptFile,
    Lease,
    LeaseLost,
    LinkedModel,
    ModelDirectory,
    ModelDirectoryError,
    ModelFolder,
    NoSuchAlias,
    NoSuchModel,
    NoSuchVersion,
)


def test_a_missing_root_holds_no_models(tmp_path: Path) -> None:
    assert ModelDirectory(tmp_path / "nowhere").models() == []


def test_models_are_sorted_and_foreign_things_passed_over(tmp_path: Path) -> None:
    for path in ("b/.staging", "a/1", "Foreign/1", "empty", ".trash/1", "half/2", "lost+found"):
        (tmp_path / path).mkdir(parents=True)
    (tmp_path / "a/1/MANIFEST.json").touch()
    (tmp_path / "c").mkdir()
    (tmp_path / "c/aliases.json").touch()
    (tmp_path / "README.md").touch()
    assert ModelDirectory(tmp_path).models() == ["a", "b", "c"]


def test_links_that_lead_nowhere_or_in_circles_hold_no_models(tmp_path: Path) -> None:
    (tmp_path / "a/1").mkdir(parents=True)
    (tmp_path / "a/1/MANIFEST.json").touch()
    (tmp_path / "a/2").symlink_to("2")
    (tmp_path / "circle").symlink_to("circle")
    (tmp_path / "gone").symlink_to("/nowhere")
    directory = ModelDirectory(tmp_path)
    assert directory.models() == ["a"]
    assert (directory.model("a").versions(), directory.model("a").aliases()) == ([1], {})


def test_no_link_below_the_directory_is_followed(tmp_path: Path) -> None:
    root = tmp_path / "models"
    (root / "a/1").mkdir(parents=True)
    (root / "a/1/MANIFEST.json").touch()
    (tmp_path / "elsewhere.json").write_text('{"champion": 1}')
    (root / "a/aliases.json").symlink_to(tmp_path / "elsewhere.json")
    (root / "a/traffic.json").symlink_to("/nowhere")
    (root / "a/2").symlink_to("1")
    (root / "b").symlink_to("a")
    (tmp_path / "root").symlink_to("models")
    directory = ModelDirectory(tmp_path / "root")
    assert directory.models() == ["a", "b"], "b is there: whoever opens it learns why it cannot be"
    with pytest.raises(LinkedModel, match=r"root/b: a symbolic link, which is not followed"):
        directory.model("b")
    folder = directory.model("a")
    assert folder.versions() == [1]
    for read in (folder.aliases, folder.traffic):
        with pytest.raises(CorruptFile, match="symbolic link"):
            read()


def test_a_model_that_cannot_be_looked_at_hides_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        (tmp_path / name / ".staging").mkdir(parents=True)
    exists = Path.exists

    def failing(path: Path) -> bool:
        if path.parent.name == "a":
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return exists(path)

    monkeypatch.setattr(Path, "exists", failing)
    assert ModelDirectory(tmp_path).models() == ["a", "b"], "a is there: whoever opens it learns why it fails"


def test_an_invalid_model_name_is_a_value_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="model name"):
        ModelDirectory(tmp_path).model("../etc")


def test_versions_are_complete_folders_in_ascending_order(folder: ModelFolder) -> None:
    for name in ("10", "9", "007", "x", "0", "3.5"):
        (folder.path / name).mkdir(parents=True)
        (folder.path / name / "MANIFEST.json").touch()
    (folder.path / "11").mkdir()
    (folder.path / "12").touch()
    (folder.path / "13").symlink_to("10")
    assert folder.versions() == [9, 10]
    assert folder.version_path(10) == folder.path / "10"


def test_what_is_not_there_is_named(folder: ModelFolder, publish_one: Callable[..., int]) -> None:
    with pytest.raises(NoSuchModel, match="poems"):
        folder.version_path(1)
    with pytest.raises(NoSuchModel, match="poems"):
        folder.resolve("champion")
    publish_one()
    with pytest.raises(NoSuchVersion, match="no version 2; it has 1"):
        folder.version_path(2)
    with pytest.raises(NoSuchAlias, match="'candidate'; it has champion"):
        folder.resolve("candidate")
    assert folder.resolve("champion") == 1


def test_an_empty_model_has_no_aliases_and_no_history(folder: ModelFolder) -> None:
    assert folder.aliases() == {}
    assert folder.history() == []
    assert folder.versions() == []


@pytest.mark.parametrize(
    "garbage", ["", "{", "[]", "3", '{"champion": "1"}', '{"champion": true}', '{"1": 1}', '{"champion": 0}']
)
def test_corrupt_aliases_are_an_error_that_names_the_file(folder: ModelFolder, garbage: str) -> None:
    folder.path.mkdir(parents=True)
    (folder.path / "aliases.json").write_text(garbage)
    with pytest.raises(ModelDirectoryError, match=r"poems/aliases\.json"):
        folder.aliases()


@pytest.mark.parametrize("name", ["aliases.json", "traffic.json", "history.jsonl", "ratings.jsonl"])
def test_a_pipe_in_the_place_of_a_file_is_an_error_that_names_it(folder: ModelFolder, name: str) -> None:
    folder.path.mkdir(parents=True)
    os.mkfifo(folder.path / name)
    with pytest.raises(CorruptFile, match=rf"poems/{name}: .*not a regular file"):
        {"aliases": folder.aliases, "traffic": folder.traffic, "history": folder.history, "ratings": folder.ratings}[
            name.split(".")[0]
        ]()


@pytest.mark.parametrize("name", ["aliases.json", "traffic.json"])
def test_a_huge_file_is_an_error_that_names_it(folder: ModelFolder, name: str) -> None:
    folder.path.mkdir(parents=True)
    (folder.path / name).touch()
    os.truncate(folder.path / name, 1 << 40)
    with pytest.raises(CorruptFile, match=rf"poems/{name}: .*more than 16 MiB"):
        (folder.aliases if name == "aliases.json" else folder.traffic)()


def test_a_torn_last_line_of_the_history_is_left_out_and_written_over(
    folder: ModelFolder, publish_one: Callable[..., int]
) -> None:
    publish_one()
    publish_one()
    history = folder.path / "history.jsonl"
    whole = history.read_bytes()
    first = whole.index(b"\n") + 1
    for size in range(first, len(whole)):
        history.write_bytes(whole[:size])
        assert [move["to"] for move in folder.history()] == [1]
    history.write_bytes(whole[:first] + b"x" * 1000)
    publish_one()
    assert [(move["from"], move["to"]) for move in folder.history()] == [(None, 1), (2, 3)]
    assert history.read_bytes().endswith(b"}\n")


@pytest.mark.parametrize("garbage", [b"\n", b"{]\n", b"[]\n", b"\xff\n"])
def test_a_corrupt_history_is_an_error_that_names_file_and_line(folder: ModelFolder, garbage: bytes) -> None:
    folder.path.mkdir(parents=True)
    (folder.path / "history.jsonl").write_bytes(b"{}\n" + garbage)
    with pytest.raises(CorruptFile, match=r"history\.jsonl, line 2"):
        folder.history()


def test_set_alias_moves_the_champion_and_keeps_the_previous_one(
    folder: ModelFolder, publish_one: Callable[..., int]
) -> None:
    publish_one()
    publish_one(alias=None)
    assert folder.aliases() == {"champion": 1}
    with Lease.acquire(folder, owner="test") as lease:
        folder.set_alias("candidate", 2, lease=lease, actor="ann", reason="try")
        folder.set_alias("champion", 2, lease=lease, actor="ann", reason="better")
        assert folder.aliases() == {"champion": 2, "previous": 1, "candidate": 2}
        folder.set_alias("champion", 2, lease=lease, actor="ann", reason="again")
        assert folder.aliases()["previous"] == 1
        folder.set_alias("champion", folder.resolve("previous"), lease=lease, actor="bob", reason="rollback")
    assert folder.aliases() == {"champion": 1, "previous": 2, "candidate": 2}
    moves = [(m["alias"], m["from"], m["to"], m["actor"], m["reason"]) for m in folder.history()]
    assert moves == [
        ("champion", None, 1, "test", "because"),
        ("candidate", None, 2, "ann", "try"),
        ("champion", 1, 2, "ann", "better"),
        ("champion", 2, 1, "bob", "rollback"),
    ]


def test_set_alias_refuses_a_version_that_is_not_there(folder: ModelFolder, publish_one: Callable[..., int]) -> None:
    publish_one()
    before = (folder.path / "aliases.json").read_bytes()
    with Lease.acquire(folder, owner="test") as lease:
        with pytest.raises(NoSuchVersion):
            folder.set_alias("champion", 9, lease=lease, actor="ann", reason="typo")
        with pytest.raises(ValueError, match="alias"):
            folder.set_alias("9", 1, lease=lease, actor="ann", reason="typo")
    assert (folder.path / "aliases.json").read_bytes() == before


def test_an_alias_can_be_dropped(folder: ModelFolder, publish_one: Callable[..., int]) -> None:
    publish_one()
    with Lease.acquire(folder, owner="test") as lease:
        folder.set_alias("pinned", 1, lease=lease, actor="ann", reason="hold")
        for _ in range(2):
            folder.drop_alias("pinned", lease=lease, actor="bob", reason="go on")
        with pytest.raises(ValueError, match="alias"):
            folder.drop_alias("9", lease=lease, actor="bob", reason="typo")
        lease.release()
        with pytest.raises(LeaseLost):
            folder.drop_alias("champion", lease=lease, actor="bob", reason="late")
    assert folder.aliases() == {"champion": 1}
    assert [(move["alias"], move["from"], move["to"]) for move in folder.history()] == [
        ("champion", None, 1),
        ("pinned", None, 1),
        ("pinned", 1, None),
    ], "dropped once"
    assert publish_one() == 2, "a dropped alias names no version"


def test_the_alias_file_is_plain_json_for_other_programs(folder: ModelFolder, publish_one: Callable[..., int]) -> None:
    publish_one()
    assert json.loads((folder.path / "aliases.json").read_text()) == {"champion": 1}
