"""Whoever can write to the object storage writes nowhere else, and neither fills the memory nor hangs who pulls."""

import json
import os
from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem
from rhapsode_contract.model_directory import Lease, ModelDirectory, publish
from rhapsode_trainer.errors import ConfigError
from rhapsode_trainer.transfer import TransferError, pull, push

TEBIBYTE = 2**40
CONTENT = b"{}"
RECORD = {"sha256": sha256(CONTENT).hexdigest(), "size": len(CONTENT)}
DEEP = b"[" * 200_000

Files = Mapping[str, Mapping[str, object]]


@pytest.fixture
def remote(tmp_path: Path) -> Path:
    """The folder of a model in the storage: one version, and its champion."""
    root = tmp_path / "remote" / "poems"
    (root / "1").mkdir(parents=True)
    (root / "1" / "config.json").write_bytes(CONTENT)
    (root / "aliases.json").write_text('{"champion": 1}')
    write_manifest(root, {"config.json": RECORD})
    return root


def write_manifest(root: Path, files: Files) -> None:
    document = {"schema_version": 1, "dtype": "float32", "parameter_count": 7, "files": files}
    (root / "1" / "MANIFEST.json").write_text(json.dumps(document))


def pulled(tmp_path: Path) -> set[str]:
    """What a pull has made of an empty model directory, whatever came of it."""
    pull(f"file://{tmp_path}/remote", tmp_path / "models", "poems")
    return tree(tmp_path / "models")


def tree(path: Path) -> set[str]:
    return {each.relative_to(path).as_posix() for each in path.rglob("*") if each.is_file()}


def test_what_is_not_spoiled_is_pulled(tmp_path: Path, remote: Path) -> None:
    assert {"poems/1/config.json", "poems/1/MANIFEST.json", "poems/aliases.json"} <= pulled(tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "../evil.json",
        "../../../evil.json",
        "a/../../../../evil.json",
        "/evil.json",
        "./evil.json",
        "a//evil.json",
        "..",
        "",
        "evil\0.json",
        "MANIFEST.json",
        "e" * 300 + ".json",
        "evil.py",
        "pytorch_model.bin",
        "evil",
        ".json",
    ],
)
def test_a_name_that_leads_elsewhere_is_not_written(tmp_path: Path, remote: Path, name: str) -> None:
    write_manifest(remote, {"config.json": RECORD, name: RECORD})
    (remote / "evil.json").write_bytes(CONTENT)
    (remote.parent / "evil.json").write_bytes(CONTENT)
    before = tree(tmp_path)
    with pytest.raises(TransferError):
        pulled(tmp_path)
    assembled = ("models/poems/.lease", "models/poems/.staging/")
    assert [each for each in tree(tmp_path) - before if not each.startswith(assembled)] == []
    assert not (tmp_path / "models/poems/1").exists()


def test_a_file_and_a_folder_of_one_name_are_refused(tmp_path: Path, remote: Path) -> None:
    write_manifest(remote, {"config.json": RECORD, "config.json/a.json": RECORD})
    with pytest.raises(TransferError):
        pulled(tmp_path)
    assert not (tmp_path / "models/poems/1").exists()


def test_a_link_in_the_way_is_not_written_through(tmp_path: Path, remote: Path) -> None:
    """One that somebody left where the version is assembled."""
    victim = tmp_path / "victim.json"
    victim.write_text("mine")
    staging = tmp_path / "models/poems/.staging/pull-1"
    staging.mkdir(parents=True)
    (staging / "MANIFEST.json").symlink_to(victim)
    with pytest.raises(TransferError):
        pulled(tmp_path)
    assert victim.read_text() == "mine"


@pytest.mark.parametrize("file", ["aliases.json", "1/MANIFEST.json"])
@pytest.mark.parametrize("kind", ["huge", "deep"])
def test_a_huge_or_deep_file_is_refused_before_it_is_in_memory(
    tmp_path: Path, remote: Path, file: str, kind: str
) -> None:
    if kind == "huge":
        os.truncate(remote / file, TEBIBYTE)
    else:
        (remote / file).write_bytes(DEEP)
    with pytest.raises(TransferError, match=Path(file).name):
        pulled(tmp_path)


def test_a_file_larger_than_the_manifest_says_is_not_fetched(tmp_path: Path, remote: Path) -> None:
    """Else it would fill the disk first."""
    os.truncate(remote / "1/config.json", TEBIBYTE)
    with pytest.raises(TransferError, match=r"config\.json.* bytes"):
        pulled(tmp_path)
    assert tree(tmp_path / "models") <= {"poems/.lease", "poems/.staging/pull-1/MANIFEST.json"}


@pytest.mark.parametrize(
    "aliases",
    ['{"../../evil": 1}', '{"champion": "../../1"}', '{"champion": -1}', '{"champion": 1.0}', '{"CHAMPION": 1}'],
)
def test_aliases_that_are_none_are_refused(tmp_path: Path, remote: Path, aliases: str) -> None:
    (remote / "aliases.json").write_text(aliases)
    with pytest.raises(TransferError, match=r"aliases\.json"):
        pulled(tmp_path)


@pytest.mark.parametrize("name", ["../poems", "poems/../../x", "/poems", ".", "", "poems\0"])
def test_a_model_of_a_name_that_leads_elsewhere_is_refused(tmp_path: Path, remote: Path, name: str) -> None:
    for transfer in (
        lambda: pull(f"file://{tmp_path}/remote", tmp_path / "models", name),
        lambda: push(tmp_path / "models", name, f"file://{tmp_path}/other"),
    ):
        with pytest.raises(ConfigError, match="--name: model name"):
            transfer()
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize("version", ["01", "-1", "1 ", "../1", "1e3", "\u0661"])
def test_folders_that_are_no_versions_are_passed_over(tmp_path: Path, remote: Path, version: str) -> None:
    other = remote / version.replace("/", "-")
    (remote / "1").rename(remote / "2")
    (remote / "aliases.json").write_text("{}")
    other.mkdir()
    (other / "MANIFEST.json").write_bytes((remote / "2/MANIFEST.json").read_bytes())
    assert {name.split("/")[1] for name in pulled(tmp_path)} == {"2", ".lease"}


class HostileListing(LocalFileSystem):  # type: ignore[misc]
    """A storage that names, among what it holds, what it does not hold."""

    protocol = "hostile"
    extra: tuple[str, ...] = ()
    removed: list[str]

    def find(self, path: str, *args: object, **options: object) -> list[str]:
        return [*super().find(path, *args, **options), *self.extra]

    def rm_file(self, path: str) -> None:
        self.removed.append(path)


@pytest.mark.parametrize("name", ["{path}/../../victim.json", "{path}/a/../../victim.json", "/elsewhere/victim.json"])
def test_a_listing_does_not_make_a_push_remove_what_lies_elsewhere(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = ModelDirectory(tmp_path / "models").model("poems")
    write: Callable[[Path], object] = lambda staging: (staging / "config.json").write_bytes(CONTENT)  # noqa: E731
    with Lease.acquire(folder, owner="test") as lease:
        publish(folder, lease, write=write, dtype="float32", parameter_count=7, actor="test", reason="a test")
    fsspec.register_implementation("hostile", HostileListing, clobber=True)
    monkeypatch.setattr(HostileListing, "extra", (name.format(path=tmp_path / "other/poems/1"),))
    monkeypatch.setattr(HostileListing, "removed", [], raising=False)
    with pytest.raises(TransferError, match="not below it"):
        push(tmp_path / "models", "poems", f"hostile://{tmp_path}/other")
    assert HostileListing.removed == []
