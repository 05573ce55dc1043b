import json
import os
import random
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rhapsode_contract.model_directory import (
    FileRecord,
    Manifest,
    VerificationError,
    read_manifest,
    verify_version,
)
from rhapsode_contract.model_directory.manifest import seal

JSON_SPACE = b" \t\r\n"
FILES = {"config.json": b"{}", "model.safetensors": bytes(range(256)), "adapters/a.json": b"[]"}


def fill(path: Path, contents: dict[str, bytes]) -> None:
    for name, content in contents.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)


def sealed(path: Path, contents: dict[str, bytes]) -> Manifest:
    fill(path, contents)
    return seal(path, dtype="float32", parameter_count=7)


@pytest.fixture
def version(tmp_path: Path) -> Path:
    sealed(tmp_path, FILES)
    return tmp_path


def refused(path: Path) -> VerificationError:
    with pytest.raises(VerificationError) as caught:
        verify_version(path)
    return caught.value


def test_a_sealed_folder_verifies_and_says_what_it_holds(version: Path) -> None:
    manifest = verify_version(version)
    assert manifest == read_manifest(version)
    assert set(manifest.files) == set(FILES)
    assert manifest.dtype == "float32"
    assert manifest.parameter_count == 7
    assert manifest.files["model.safetensors"] == FileRecord(
        sha256="40aff2e9d2d8922e47afd4648e6967497158785fbd1da870e7110266bf944880", size=256
    )


def test_a_truncated_file(version: Path) -> None:
    os.truncate(version / "model.safetensors", 255)
    error = refused(version)
    assert (error.reason, error.file) == ("hash_mismatch", "model.safetensors")
    assert "255 bytes instead of 256" in str(error)


def test_one_flipped_byte(version: Path) -> None:
    content = bytearray(FILES["model.safetensors"])
    content[100] ^= 1
    (version / "model.safetensors").write_bytes(content)
    error = refused(version)
    assert (error.reason, error.file) == ("hash_mismatch", "model.safetensors")


@pytest.mark.parametrize("mask", [1, 0x20, 0xFF])
def test_any_flipped_byte_of_the_manifest_itself(version: Path, mask: int) -> None:
    """Unless it is white space that became other white space, which changes nothing."""
    file = version / "MANIFEST.json"
    whole, manifest = file.read_bytes(), read_manifest(version)
    for index in range(len(whole)):
        content = bytearray(whole)
        content[index] ^= mask
        file.write_bytes(content)
        if whole[index] in JSON_SPACE and content[index] in JSON_SPACE:
            assert read_manifest(version) == manifest
            continue
        with pytest.raises(VerificationError) as caught:
            read_manifest(version)
        assert caught.value.reason == "bad_manifest"


def test_a_manifest_of_an_earlier_release_has_no_checksum(version: Path) -> None:
    document = json.loads((version / "MANIFEST.json").read_bytes())
    del document["checksum"]
    (version / "MANIFEST.json").write_text(json.dumps(document))
    assert verify_version(version).parameter_count == 7


def test_a_missing_file(version: Path) -> None:
    (version / "adapters/a.json").unlink()
    error = refused(version)
    assert (error.reason, error.file) == ("missing_file", "adapters/a.json")


@pytest.mark.parametrize("name", ["extra.json", "adapters/b.json", ".hidden", "MANIFEST.json.tmp"])
def test_an_extra_file(version: Path, name: str) -> None:
    (version / name).write_text("{}")
    error = refused(version)
    assert (error.reason, error.file) == ("foreign_file", name)


def test_a_symbolic_link_even_to_the_right_content(version: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "config.json"
    shutil.move(version / "config.json", elsewhere)
    (version / "config.json").symlink_to(elsewhere)
    error = refused(version)
    assert (error.reason, error.file) == ("foreign_file", "config.json")


def test_a_linked_folder(version: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "adapters"
    shutil.move(version / "adapters", elsewhere)
    (version / "adapters").symlink_to(elsewhere)
    error = refused(version)
    assert (error.reason, error.file) == ("foreign_file", "adapters")


def test_a_pipe_is_refused_without_being_opened(version: Path) -> None:
    (version / "config.json").unlink()
    os.mkfifo(version / "config.json")
    error = refused(version)
    assert (error.reason, error.file) == ("foreign_file", "config.json")


@pytest.mark.parametrize(("kind", "detail"), [("pipe", "not a regular file"), ("huge", "more than 16 MiB")])
def test_a_manifest_that_cannot_be_read_at_once(version: Path, kind: str, detail: str) -> None:
    manifest = version / "MANIFEST.json"
    if kind == "huge":
        os.truncate(manifest, 1 << 40)
    else:
        manifest.unlink()
        os.mkfifo(manifest)
    error = refused(version)
    assert (error.reason, error.file) == ("bad_manifest", "MANIFEST.json")
    assert detail in error.detail


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (b"\xff\x1b[2J\r\n.json", "\\udcff\\x1b[2J\\r\\n.json"),
        ("G\u00f6the 'x' \u8a69.json".encode(), "G\u00f6the 'x' \u8a69.json"),
    ],
)
def test_any_file_name_can_be_printed(version: Path, name: bytes, shown: str) -> None:
    (version / os.fsdecode(name)).touch()
    error = refused(version)
    assert (error.reason, error.file) == ("foreign_file", shown)
    str(error).encode()
    assert str(error).isprintable()


def test_a_folder_in_the_place_of_a_file(version: Path) -> None:
    (version / "config.json").unlink()
    (version / "config.json").mkdir()
    error = refused(version)
    assert (error.reason, error.file) == ("missing_file", "config.json")


def test_no_manifest(version: Path, tmp_path: Path) -> None:
    (version / "MANIFEST.json").unlink()
    for path in (version, tmp_path / "nowhere", tmp_path / "config.json"):
        error = refused(path)
        assert (error.reason, error.file) == ("missing_manifest", "MANIFEST.json")


@pytest.mark.parametrize("garbage", [b"", b"{", b"null", b"[]", b"{}", b"\xff\xfe", b'{"files": 3}', b"[" * 100_000])
def test_a_garbage_manifest(version: Path, garbage: bytes) -> None:
    (version / "MANIFEST.json").write_bytes(garbage)
    assert refused(version).reason == "bad_manifest"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("schema_version", 2),
        ("schema_version", True),
        ("dtype", ""),
        ("dtype", 32),
        ("parameter_count", 0),
        ("parameter_count", "7"),
        ("files", {}),
        ("files", {"../config.json": {"sha256": "0" * 64, "size": 2}}),
        ("files", {"/etc/passwd": {"sha256": "0" * 64, "size": 2}}),
        ("files", {"a//b.json": {"sha256": "0" * 64, "size": 2}}),
        ("files", {"model.pkl": {"sha256": "0" * 64, "size": 2}}),
        ("files", {"modeling.py": {"sha256": "0" * 64, "size": 2}}),
        ("files", {"a.json": {"sha256": "0" * 63, "size": 2}}),
        ("files", {"a.json": {"sha256": "0" * 64, "size": -1}}),
        ("files", {"a.json": {"sha256": "0" * 64}}),
    ],
)
def test_a_wrong_field_of_the_manifest_is_named(version: Path, field: str, value: object) -> None:
    manifest = json.loads((version / "MANIFEST.json").read_text())
    (version / "MANIFEST.json").write_text(json.dumps({**manifest, field: value}))
    error = refused(version)
    assert error.reason == "bad_manifest"
    assert field in str(error) or "sha256" in str(error) or "size" in str(error)


def test_a_truncated_manifest_is_refused_wherever_it_ends(version: Path) -> None:
    whole = (version / "MANIFEST.json").read_bytes()
    for size in range(0, len(whole) - 2, 5):
        (version / "MANIFEST.json").write_bytes(whole[:size])
        assert refused(version).reason == "bad_manifest"


@pytest.mark.parametrize("name", ["model.bin", "optimizer.pt", "sub/x.pkl", "MANIFEST.json"])
def test_seal_refuses_what_has_no_place_in_a_version(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=name):
        sealed(tmp_path, {**FILES, name: b""})


OUTWARD = {
    "model.safetensors.index.json": [
        '{"weight_map": {"a": "../2/model.safetensors"}}',
        '{"weight_map": {"a": "/model.safetensors"}}',
        '{"weight_map": {"a": ".."}}',
        '{"weight_map": {"a": 1}}',
        '{"weight_map": ["a"]}',
        "{}",
        "[" * 100_000,
    ],
    "adapter_config.json": ["{}"],
}


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in OUTWARD.items() for text in texts])
def test_what_leads_out_of_a_version_is_neither_sealed_nor_verified(tmp_path: Path, name: str, text: str) -> None:
    with pytest.raises(ValueError, match=rf"{name}' cannot be published"):
        sealed(tmp_path, {**FILES, name: text.encode()})
    (tmp_path / name).write_text('{"weight_map": {"a": "model.safetensors"}}')
    (tmp_path / name).rename(tmp_path / "b.index.json")
    document = seal(tmp_path, dtype="float32", parameter_count=7)
    assert verify_version(tmp_path) == document
    (tmp_path / "b.index.json").rename(tmp_path / name)
    (tmp_path / name).write_text(text)
    manifest = json.loads((tmp_path / "MANIFEST.json").read_text())
    manifest["files"][name] = manifest["files"].pop("b.index.json")
    del manifest["checksum"]  # as whoever smuggles it in would
    (tmp_path / "MANIFEST.json").write_text(json.dumps(manifest))
    error = refused(tmp_path)
    assert (error.reason, error.file) == ("foreign_file", name)


def test_seal_refuses_links_and_empty_folders(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="files"):
        sealed(tmp_path, {})
    (tmp_path / "config.json").symlink_to("/dev/null")
    with pytest.raises(ValueError, match=r"config\.json"):
        sealed(tmp_path, {})


FILE_NAMES = st.from_regex(r"([a-z]{1,3}/){0,2}[a-zA-Z0-9 _.-]{1,8}\.(json|jsonl|safetensors|md)", fullmatch=True)
CONTENTS = st.dictionaries(FILE_NAMES, st.binary(max_size=64), min_size=1, max_size=5)


@settings(max_examples=60, deadline=None)
@given(contents=CONTENTS, damage=st.sampled_from(["flip", "cut", "grow", "remove", "add"]), seed=st.integers(0, 999))
def test_any_damage_to_any_file_set_is_found(contents: dict[str, bytes], damage: str, seed: int) -> None:
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary)
        assert sealed(path, contents) == verify_version(path)
        name = chance.choice(sorted(contents))
        content = contents[name]
        if damage == "add":
            (path / name).with_name("added").write_bytes(content)
            expected = "foreign_file"
        elif damage == "remove":
            (path / name).unlink()
            expected = "missing_file"
        else:
            (path / name).write_bytes(damaged(content, damage, chance))
            expected = "hash_mismatch"
        error = refused(path)
        assert error.reason == expected
        assert damage == "add" or error.file == name


def damaged(content: bytes, damage: str, chance: random.Random) -> bytes:
    if damage == "grow" or not content:
        return content + b"\0"
    if damage == "cut":
        return content[: chance.randrange(len(content))]
    at = chance.randrange(len(content))
    return content[:at] + bytes([content[at] ^ (1 << chance.randrange(8))]) + content[at + 1 :]
