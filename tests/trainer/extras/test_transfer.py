import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import fsspec
import pytest
from rhapsode_contract.model_directory import (
    Lease,
    LeaseHeld,
    ModelDirectory,
    ModelFolder,
    VerificationError,
    collect_garbage,
    verify_version,
)
from rhapsode_trainer.errors import ConfigError, Interrupted
from rhapsode_trainer.transfer import TransferError, Transferred, pull, push

Publish = Callable[..., ModelFolder]
pytestmark = pytest.mark.usefixtures("quick_disk", "memory")


@pytest.fixture(params=["file", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"file://{tmp_path}/remote/models" if request.param == "file" else "memory://bucket/models"


def tree(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


def write(url: str, file: str, content: bytes) -> None:
    with fsspec.open(f"{url}/poems/{file}", "wb", auto_mkdir=True) as opened:
        opened.write(content)


def test_a_model_goes_there_and_comes_back(tmp_path: Path, url: str, publish_in: Publish) -> None:
    source = publish_in(tmp_path / "a", 2)
    aliases = {"champion": 2, "previous": 1}
    assert push(tmp_path / "a", "poems", url) == Transferred(versions=(1, 2), aliases=aliases)
    assert pull(url, tmp_path / "b", "poems") == Transferred(versions=(1, 2), aliases=aliases)
    target = ModelDirectory(tmp_path / "b").model("poems")
    assert target.aliases() == aliases
    assert [verify_version(target.version_path(version)).parameter_count for version in target.versions()] == [7, 7]
    assert [tree(target.path / str(version)) for version in (1, 2)] == [tree(source.path / str(v)) for v in (1, 2)]
    assert [(move["alias"], move["from"], move["to"]) for move in target.history()] == [
        ("champion", None, 2),
        ("previous", None, 1),
    ]
    assert url.partition("://")[0] in target.history()[0]["reason"]


def test_what_is_there_is_not_sent_again(tmp_path: Path, url: str, publish_in: Publish) -> None:
    publish_in(tmp_path / "a", 1)
    push(tmp_path / "a", "poems", url)
    pull(url, tmp_path / "b", "poems")
    nothing = Transferred(versions=(), aliases={})
    assert push(tmp_path / "a", "poems", url) == nothing
    assert pull(url, tmp_path / "b", "poems") == nothing
    publish_in(tmp_path / "a", 1)
    news = Transferred(versions=(2,), aliases={"champion": 2, "previous": 1})
    assert push(tmp_path / "a", "poems", url) == news
    assert pull(url, tmp_path / "b", "poems") == news


def test_aliases_of_the_source_win_and_others_stay(tmp_path: Path, url: str, publish_in: Publish) -> None:
    folder = publish_in(tmp_path / "a", 2)
    push(tmp_path / "a", "poems", url)
    pull(url, tmp_path / "b", "poems")
    here = ModelDirectory(tmp_path / "b").model("poems")
    with Lease.acquire(here, owner="test") as lease:
        here.set_alias("pinned", 1, lease=lease, actor="test", reason="because")
    with Lease.acquire(folder, owner="test") as lease:
        folder.set_alias("champion", 1, lease=lease, actor="test", reason="rollback")
    assert push(tmp_path / "a", "poems", url).aliases == {"champion": 1, "previous": 2}
    assert pull(url, tmp_path / "b", "poems").aliases == {"champion": 1, "previous": 2}
    assert here.aliases() == {"champion": 1, "previous": 2, "pinned": 1}


def test_garbage_does_not_come_back_unless_an_alias_names_it(tmp_path: Path, url: str, publish_in: Publish) -> None:
    source = publish_in(tmp_path / "a", 4)
    push(tmp_path / "a", "poems", url)
    pull(url, tmp_path / "b", "poems")
    here = ModelDirectory(tmp_path / "b").model("poems")
    with Lease.acquire(here, owner="test") as lease:
        assert collect_garbage(here, lease, keep=1, grace=timedelta(0)) == [1, 2]
    assert pull(url, tmp_path / "b", "poems").versions == ()
    with Lease.acquire(source, owner="test") as lease:
        source.set_alias("pinned", 1, lease=lease, actor="test", reason="because")
    push(tmp_path / "a", "poems", url)
    assert pull(url, tmp_path / "b", "poems") == Transferred(versions=(1,), aliases={"pinned": 1})
    assert here.versions() == [1, 3, 4]


@pytest.mark.parametrize("way", ["push", "pull"])
def test_an_existing_version_is_never_replaced(tmp_path: Path, url: str, publish_in: Publish, way: str) -> None:
    publish_in(tmp_path / "a", 1)
    push(tmp_path / "a", "poems", url)
    other = publish_in(tmp_path / "b", 2)
    before = tree(tmp_path / "b")
    with pytest.raises(TransferError, match=r"poems/1: another version .* never replaced"):
        push(tmp_path / "b", "poems", url) if way == "push" else pull(url, tmp_path / "b", "poems")
    if way == "pull":
        assert {**tree(tmp_path / "b"), "poems/.lease": b""} == {**before, "poems/.lease": b""}
        assert other.aliases() == {"champion": 2, "previous": 1}
    pull(url, tmp_path / "c", "poems")
    assert tree(tmp_path / "c/poems/1") == tree(tmp_path / "a/poems/1")


def test_a_damaged_version_is_not_pushed(tmp_path: Path, url: str, publish_in: Publish) -> None:
    folder = publish_in(tmp_path / "a")
    (folder.path / "1/config.json").write_text("[]")
    with pytest.raises(VerificationError, match=r"config\.json"):
        push(tmp_path / "a", "poems", url)
    with pytest.raises(ConfigError, match="no version of 'poems'"):
        pull(url, tmp_path / "b", "poems")
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    ("file", "content", "complaint"),
    [
        ("1/config.json", b"[]", r"poems/1 is not a verified version: config\.json"),
        ("1/MANIFEST.json", b"{", r"poems/1 is not a verified version: MANIFEST\.json"),
        ("aliases.json", b"{", r"poems/aliases\.json: not an object of aliases"),
        ("aliases.json", b"[]", r"poems/aliases\.json: not an object of aliases"),
        ("aliases.json", b'{"9": 1}', r"poems/aliases\.json: .*'9'"),
        ("aliases.json", b'{"champion": true}', r"poems/aliases\.json: .*True is not a version"),
        ("aliases.json", b'{"champion": 8}', r"poems/aliases\.json: 'champion' names version 8"),
    ],
)
def test_what_arrives_damaged_is_refused_by_url_and_file(
    tmp_path: Path, url: str, publish_in: Publish, file: str, content: bytes, complaint: str
) -> None:
    publish_in(tmp_path / "a")
    push(tmp_path / "a", "poems", url)
    write(url, file, content)
    with pytest.raises(TransferError, match=rf"{url.partition('://')[0]}://.*{complaint}"):
        pull(url, tmp_path / "b", "poems")
    assert ModelDirectory(tmp_path / "b").model("poems").versions() == []
    assert list(tmp_path.glob("b/poems/.staging/*")) == []


def test_a_pickle_is_refused_by_name(tmp_path: Path, publish_in: Publish) -> None:
    folder = publish_in(tmp_path / "a")
    manifest = json.loads((folder.path / "1/MANIFEST.json").read_text())
    manifest["files"]["model.pkl"] = manifest["files"].pop("config.json")
    del manifest["checksum"]  # as whoever smuggles it in would
    (folder.path / "1/config.json").rename(folder.path / "1/model.pkl")
    (folder.path / "1/MANIFEST.json").write_text(json.dumps(manifest))
    with pytest.raises(
        TransferError, match=r"poems/1 is not a verified version: MANIFEST\.json: .*'model\.pkl' cannot be published"
    ):
        pull(f"file://{tmp_path}/a", tmp_path / "b", "poems")


def test_what_another_attempt_left_at_the_url_is_cleared(tmp_path: Path, url: str, publish_in: Publish) -> None:
    publish_in(tmp_path / "a")
    write(url, "1/extra/foreign.txt", b"x")
    write(url, "1/config.json", b"tor")
    push(tmp_path / "a", "poems", url)
    assert pull(url, tmp_path / "b", "poems").versions == (1,)


def test_something_in_the_way_is_named(tmp_path: Path, url: str, publish_in: Publish) -> None:
    publish_in(tmp_path / "a")
    push(tmp_path / "a", "poems", url)
    (tmp_path / "b/poems/1").mkdir(parents=True)
    with pytest.raises(TransferError, match=r"b/poems/1: not a version, but in the way"):
        pull(url, tmp_path / "b", "poems")


def test_pulling_takes_the_lease(tmp_path: Path, url: str, publish_in: Publish) -> None:
    publish_in(tmp_path / "a")
    push(tmp_path / "a", "poems", url)
    with Lease.acquire(ModelDirectory(tmp_path / "b").model("poems"), owner="somebody"), pytest.raises(LeaseHeld):
        pull(url, tmp_path / "b", "poems")


def test_a_transfer_can_be_interrupted_between_files(tmp_path: Path, url: str, publish_in: Publish) -> None:
    publish_in(tmp_path / "a")
    calls = iter([None, None])

    def check() -> None:
        if next(calls, Interrupted("stopped")) is not None:
            raise Interrupted("stopped")

    with pytest.raises(Interrupted):
        push(tmp_path / "a", "poems", url, check=check)
    assert push(tmp_path / "a", "poems", url).versions == (1,)


@pytest.mark.parametrize(
    ("url", "name", "complaint"),
    [
        ("nonsense://x", "poems", "cannot open a URL of the kind 'nonsense'"),
        ("memory://x", "Not A Name", "--name: model name 'Not A Name'"),
        ("memory://x", "stories", "--name: there is no version of 'stories' at "),
    ],
)
def test_a_wrong_url_or_name_is_a_configuration_error(
    tmp_path: Path, publish_in: Publish, url: str, name: str, complaint: str
) -> None:
    publish_in(tmp_path / "a")
    for transfer in (lambda: push(tmp_path / "a", name, url), lambda: pull(url, tmp_path / "a", name)):
        with pytest.raises(ConfigError, match=complaint):
            transfer()


def test_a_disk_that_cannot_be_written_is_named(tmp_path: Path, publish_in: Publish) -> None:
    publish_in(tmp_path / "a")
    (tmp_path / "file").touch()
    with pytest.raises(TransferError, match=rf"file://{tmp_path}/file/x/poems/1/MANIFEST\.json: NotADirectoryError"):
        push(tmp_path / "a", "poems", f"file://{tmp_path}/file/x")
    with pytest.raises(TransferError, match=rf"{tmp_path}/file"):
        pull(f"file://{tmp_path}/a", tmp_path / "file", "poems")
