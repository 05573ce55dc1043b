"""A model directory in which all but one model mean harm: that one is served, and the rest refused with a reason."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path

import grpc
import pytest
from rhapsode.v1.admin_pb2 import LoadVersionRequest
from rhapsode.v1.generation_pb2 import GenerateRequest
from rhapsode.v1.generation_pb2_grpc import GenerationServiceStub
from rhapsode.v1.models_pb2 import GetModelRequest, ListModelsRequest
from rhapsode.v1.models_pb2_grpc import ModelServiceStub
from support.operators import Operator
from support.publishing import publish_tiny
from support.servers import ServerProcess, running_server

GOOD = "poems"
SECRET = "what nobody may see"
DEEP = "[" * 200_000
MEBIBYTE = 2**20
GIBIBYTE = 2**30
TEBIBYTE = 2**40

Spoil = Callable[[Path], object]


def write_manifest(version: Path, *extra: str) -> None:
    """As one would who does not care for the rules: of what is there, and of names that need not be there."""
    present = [path for path in version.rglob("*") if path.is_file() and path.name != "MANIFEST.json"]
    names = [path.relative_to(version).as_posix() for path in present]
    contents = {name: (version / name).read_bytes() for name in (*names, *extra) if (version / name).is_file()}
    files = {name: {"sha256": sha256(text).hexdigest(), "size": len(text)} for name, text in contents.items()}
    document = {"schema_version": 1, "dtype": "float32", "parameter_count": 7, "files": files}
    (version / "MANIFEST.json").write_text(json.dumps(document))


def sparse(path: Path, size: int) -> None:
    path.touch()
    os.truncate(path, size)


def in_place_of(name: str, make: Spoil) -> Spoil:
    """It takes the place of a file when the manifest is already written."""

    def spoil(version: Path) -> None:
        write_manifest(version)
        (version / name).unlink(missing_ok=True)
        make(version / name)

    return spoil


def listed(name: str, text: str = "{}") -> Spoil:
    """A file like any other, as far as the manifest goes."""

    def spoil(version: Path) -> None:
        (version / name).write_text(text)
        write_manifest(version)

    return spoil


def index_of(shard: str) -> str:
    return json.dumps({"metadata": {}, "weight_map": {"wte.weight": shard}})


def oversized(version: Path) -> None:
    sparse(version / "tokenizer.json", 65 * MEBIBYTE)
    write_manifest(version)


VERSIONS: dict[str, tuple[Spoil, str]] = {
    "a-pipe": (in_place_of("config.json", os.mkfifo), "foreign_file"),
    "a-pipe-too-many": (in_place_of("notes.json", os.mkfifo), "foreign_file"),
    "a-link": (in_place_of("config.json", lambda path: path.symlink_to("/etc/passwd")), "foreign_file"),
    "a-linked-folder": (in_place_of("more", lambda path: path.symlink_to("/etc")), "foreign_file"),
    "a-name-for-terminals": (in_place_of("\x1b[2J\r\n.json", Path.touch), "foreign_file"),
    "a-path-out": (lambda version: write_manifest(version, f"../../{GOOD}/1/config.json"), "bad_manifest"),
    "an-absolute-path": (lambda version: write_manifest(version, "/etc/passwd"), "bad_manifest"),
    "a-pickle": (listed("pytorch_model.bin"), "bad_manifest"),
    "python-code": (listed("modeling_mine.py", "raise SystemExit"), "bad_manifest"),
    "a-library": (listed("kernels.so"), "bad_manifest"),
    "shards-elsewhere": (
        listed("model.safetensors.index.json", index_of(f"../../{GOOD}/1/model.safetensors")),
        "foreign_file",
    ),
    "an-adapter": (listed("adapter_config.json", json.dumps({"base_model_name_or_path": "/etc"})), "foreign_file"),
    "a-deep-manifest": (lambda version: (version / "MANIFEST.json").write_text(DEEP), "bad_manifest"),
    "a-huge-manifest": (lambda version: sparse(version / "MANIFEST.json", TEBIBYTE), "bad_manifest"),
    "deep-defaults": (listed("generation_config.json", DEEP), "load_failed"),
    "a-deep-template": (listed("chat_template.jinja", "{% for a in b %}" * 40 + "{% endfor %}" * 40), "load_failed"),
    "deep-settings": (listed("tokenizer_config.json", DEEP), "load_failed"),
    "deep-steps": (listed("postprocess.json", DEEP), "load_failed"),
    "a-deep-canary": (listed("canary.json", DEEP), "canary_off"),
    "a-deep-tokenizer": (listed("tokenizer.json", DEEP), "load_failed"),
    "a-huge-tokenizer": (oversized, "load_failed"),
}
"""By model: what is done to its version, and the reason that the server gives for not serving it."""

FOLDERS: dict[str, tuple[Spoil, str]] = {
    "aliases-pipe": (lambda folder: os.mkfifo(folder / "aliases.json"), "not a regular file"),
    "aliases-link": (lambda folder: (folder / "aliases.json").symlink_to("../../secret.json"), "not a regular file"),
    "aliases-zero": (lambda folder: (folder / "aliases.json").symlink_to("/dev/zero"), "not a regular file"),
    "aliases-deep": (lambda folder: (folder / "aliases.json").write_text(DEEP), "aliases.json"),
    "aliases-huge": (lambda folder: sparse(folder / "aliases.json", TEBIBYTE), "more than 16 MiB"),
    "traffic-pipe": (lambda folder: os.mkfifo(folder / "traffic.json"), "not a regular file"),
    "traffic-link": (lambda folder: (folder / "traffic.json").symlink_to("../../secret.json"), "not a regular file"),
}
"""By model: what is done to its folder, and what the log says of it."""

SILENT = {
    "not-a-version": lambda folder: (folder / "1").symlink_to(f"../{GOOD}/1"),
    "a-manifest-pipe": lambda folder: ((folder / "1").mkdir(), os.mkfifo(folder / "1" / "MANIFEST.json")),
    "nothing-but-links": lambda folder: (folder / "1").symlink_to("1"),
}
"""By model: what is in its folder is no version at all."""


def copy_of(version: Path, place: Path) -> Path:
    place.mkdir(parents=True)
    for path in version.iterdir():
        if path.name != "MANIFEST.json":
            os.link(path, place / path.name)
    for path in place.glob("*.json"):  # of its own: spoiling it leaves the original as it is
        text = path.read_text()
        path.unlink()
        path.write_text(text)
    return place


def fill(root: Path) -> None:
    publish_tiny(root, GOOD)
    (root.parent / "secret.json").write_text(json.dumps({SECRET: 1}))
    shutil.copytree(root / GOOD, root.parent / "elsewhere" / "linked")
    (root / "linked").symlink_to(root.parent / "elsewhere" / "linked")
    (root / "linked-inside").symlink_to(GOOD)
    os.mkfifo(root / "pipe")
    (root / "zero").symlink_to("/dev/zero")
    for name, (spoil, _) in VERSIONS.items():
        spoil(copy_of(root / GOOD / "1", root / name / "1"))
        (root / name / "aliases.json").write_text('{"champion": 1}')
    for name, (spoil, _) in FOLDERS.items():
        copy_of(root / GOOD / "1", root / name / "1")
        (root / name / "1" / "MANIFEST.json").write_text("{}")
        spoil(root / name)
    for name, make in SILENT.items():
        (root / name).mkdir()
        make(root / name)
        (root / name / "aliases.json").write_text('{"champion": 1}')


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    root = tmp_path_factory.mktemp("hostile") / "models"
    root.mkdir()
    fill(root)
    with running_server(root, "--threads", "1", "--standby", "off", "--default-model", GOOD) as server:
        server.wait_serving(f"model/{GOOD}")
        yield server
        server.terminate()
        assert server.wait() == 0, server.output


@pytest.fixture(scope="module")
def operator(server: ServerProcess) -> Iterator[Operator]:
    with Operator(server) as operator:
        yield operator


@pytest.fixture(scope="module")
def channel(server: ServerProcess) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.address) as channel:
        yield channel


@pytest.mark.parametrize("name", VERSIONS)
def test_a_hostile_version_is_refused_with_its_reason(operator: Operator, name: str) -> None:
    operator.until(lambda: name in names_listed(operator.server))
    operator.until(lambda: operator.reason(1, name))
    assert operator.reason(1, name) == VERSIONS[name][1]


@pytest.mark.parametrize("name", FOLDERS)
def test_a_hostile_folder_is_passed_over_and_the_log_says_why(server: ServerProcess, name: str) -> None:
    server.wait_log(f"{name}: passed over until it can be read")
    [line] = [line for line in server.log if f"{name}: passed over" in line]
    assert FOLDERS[name][1] in line


@pytest.mark.parametrize("name", ["linked", "linked-inside"])
def test_a_linked_model_is_not_followed(server: ServerProcess, name: str) -> None:
    server.wait_log(f"{name}: passed over until it can be read")
    assert name not in names_listed(server)


def test_what_holds_no_version_is_no_model(server: ServerProcess) -> None:
    assert not names_listed(server) & {*SILENT, "pipe", "zero"}


def test_the_one_good_model_answers(channel: grpc.Channel) -> None:
    response = GenerationServiceStub(channel).Generate(GenerateRequest(prompt="the sea"), timeout=20)
    assert (response.model, response.version) == (GOOD, 1)


def test_the_server_is_well(server: ServerProcess) -> None:
    assert "Traceback" not in server.output
    assert SECRET not in server.output
    assert "\x1b" not in server.output
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    [peak] = [int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM")]
    assert peak < GIBIBYTE


NAMES = (
    "..",
    f"../models/{GOOD}",
    f"{GOOD}/1",
    f"{GOOD}/../{GOOD}",
    f"./{GOOD}",
    f"{GOOD}\0",
    f"%2e%2e%2f{GOOD}",
    "/etc/passwd",
    "linked",
    "n" * 100_000,
)


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_no_name_of_a_caller_leads_anywhere(channel: grpc.Channel, operator: Operator, name: str) -> None:
    calls = (
        lambda: GenerationServiceStub(channel).Generate(GenerateRequest(model=name, prompt="x"), timeout=20),
        lambda: ModelServiceStub(channel).GetModel(GetModelRequest(model=name), timeout=20),
        lambda: operator.admin.LoadVersion(LoadVersionRequest(model=name, version=1), timeout=20),
    )
    for call in calls:
        with pytest.raises(grpc.RpcError) as caught:
            call()
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("version", [2, 2**63, 2**64 - 1])
def test_no_version_of_a_caller_leads_anywhere(channel: grpc.Channel, operator: Operator, version: int) -> None:
    calls = (
        lambda: GenerationServiceStub(channel).Generate(GenerateRequest(model=GOOD, version=version), timeout=20),
        lambda: operator.admin.LoadVersion(LoadVersionRequest(model=GOOD, version=version), timeout=20),
    )
    for call in calls:
        with pytest.raises(grpc.RpcError) as caught:
            call()
        assert caught.value.code() in {grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT}


def names_listed(server: ServerProcess) -> set[str]:
    with grpc.insecure_channel(server.address) as channel:
        answer = ModelServiceStub(channel).ListModels(ListModelsRequest(), timeout=20)
    return {model.name for model in answer.models}
