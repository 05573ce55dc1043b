"""Both images built, and used as a strict cluster would: read-only, without privileges, no process but Python before 1.

The base is a stand-in made of Debian's packages: what the official one adds is not seen here, nor CUDA at run time.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from rhapsode_client import Client
from support.containers import Container, Run, Storage, missing_tools

ROOT = Path(__file__).parents[2]
BASE = "docker.io/library/python:3.11-slim-bookworm"
PACKAGES = ("ca-certificates", "libpython3-dev", "python3", "python3-pip", "python3-venv")
TINY = {
    "model.n_embd": 32,
    "model.n_layer": 1,
    "model.n_head": 2,
    "tokenizer.vocab_size": 512,
    "training.arguments.max_steps": 6,
    "training.arguments.warmup_steps": 1,
}
QUICKSTART = [
    "run",
    "quickstart",
    "--name",
    "poems",
    "--force",
    *(f"--set={key}={value}" for key, value in TINY.items()),
]
TRAINING = ("accelerate", "datasets", "pyarrow", "pandas", "matplotlib", "peft", "optuna", "rhapsode-trainer", "pytest")
SERVING = ("grpcio-reflection", "prometheus-client", "llguidance", "rhapsode-server", "rhapsode-client", "pytest")
LIST = "import json, importlib.metadata as m; print(json.dumps({d.name: d.version for d in m.distributions()}))"
COMPILERS = ("cc", "gcc", "g++", "c++", "clang", "ld", "as")

pytestmark = [
    pytest.mark.skipif(os.environ.get("RHAPSODE_DEPLOY") != "1", reason="takes minutes: make check-deploy"),
    pytest.mark.skipif(
        bool(missing_tools()), reason=f"needs {', '.join(missing_tools())}: apt-get install buildah runc mmdebstrap"
    ),
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts file systems: needs root"),
    pytest.mark.timeout(1800),
]


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Storage]:
    """RHAPSODE_IMAGES names a folder that keeps the layers for the next run; else nothing is kept."""
    kept = os.environ.get("RHAPSODE_IMAGES")
    storage = Storage(Path(kept) if kept else tmp_path_factory.mktemp("images"))
    try:
        yield storage
    finally:
        if not kept:
            storage.close()


@pytest.fixture(scope="module")
def images(storage: Storage) -> dict[str, str]:
    """What `make images` builds, by name: with pip set up as it is here, of which nothing stays in the image."""
    if BASE not in storage.images():
        storage.stand_in(BASE, PACKAGES)
    command = [sys.executable, "tools/images.py", "--torch", "cpu", "--", *build_flags(storage.folder)]
    done = subprocess.run(command, cwd=ROOT, env=storage.environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-8000:]
    built = re.search(r"^Built: (.+)$", done.stdout, re.M)
    assert built
    return dict(zip(("serve", "train"), (f"localhost/{name}" for name in built[1].split()), strict=True))


def build_flags(folder: Path) -> list[str]:
    listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True)
    given = dict(
        re.findall(r"^(?:global|:env:)\.(cert|find-links|index-url|extra-index-url)='(.*)'$", listed.stdout, re.M)
    )
    settings = folder / "pip.conf"
    settings.write_text("[global]\nretries = 1\n" + "".join(f"{key} = {value}\n" for key, value in given.items()))
    places = {part.removeprefix("file://") for value in given.values() for part in value.split()}
    folders = {re.sub(r"/simple/?$", "", place) for place in places if place.startswith("/")}
    volumes = [f"--volume={place}:{place}:ro" for place in sorted(folders)]
    return ["--network=host", "--format=docker", f"--volume={settings}:/etc/pip.conf:ro", *volumes]


@pytest.fixture(scope="module")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model directory and a work directory that belong to the images' user."""
    folders = {name: tmp_path_factory.mktemp(name) for name in ("models", "work")}
    for folder in folders.values():
        os.chown(folder, 10001, 10001)
        folder.chmod(0o755)
    return folders


@pytest.fixture(scope="module")
def published(storage: Storage, images: dict[str, str], volumes: dict[str, Path]) -> Path:
    """The model directory, once the training image has published a version into it."""
    writable = {"/models": volumes["models"], "/work": volumes["work"]}
    with storage.container(images["train"], Run(arguments=QUICKSTART, writable=writable)) as container:
        assert container.wait() == 0, container.output
        assert "Published: /models/poems/1, loaded back and verified" in container.output
    return volumes["models"]


@contextmanager
def serving(storage: Storage, image: str, models: Path, user: str | None = None) -> Iterator[tuple[Container, str]]:
    """The container and the address that it took."""
    places = {"RHAPSODE_ADDRESS": "127.0.0.1:0", "RHAPSODE_METRICS_PORT": "0", "RHAPSODE_ADMIN_ADDRESS": "off"}
    run = Run(environment=places, read_only={"/models": models}, user=user)
    with storage.container(image, run) as container:
        address = re.search(r"gRPC on ([^\s,]+)", container.wait_log("gRPC on"))
        assert address
        container.wait_log("health: SERVING")
        yield container, address[1]


def status(pid: int, name: str) -> list[str]:
    """What the machine says of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(line.split()[1:] for line in lines if line.startswith(f"{name}:"))


def generate(address: str) -> int:
    """The number of tokens that a call from outside got."""
    with Client(address, timeout=60) as client:
        return client.generate("The moon", max_new_tokens=8, ignore_eos=True).usage.completion_tokens


def short(instruction: str) -> str:
    """Without the shell and the hashes that buildah writes into it."""
    return re.sub(r"/bin/sh -c (#\(nop\) )?|:[0-9a-f]{64}", "", instruction)[:100]


def test_the_layers_are_few_and_torch_has_its_own(storage: Storage, images: dict[str, str], capsys):
    layers = {image: storage.layers(name) for image, name in images.items()}
    with capsys.disabled():
        for image, found in layers.items():
            print(f"\n{image}: {sum(layer.size for layer in found) / 1e6:,.0f} MB")
            for layer in found:
                print(f"{layer.size / 1e6:10,.1f} MB  {short(layer.instruction)}")
    serve, train = layers.values()
    assert [layer.digest for layer in serve[:3]] == [layer.digest for layer in train[:3]]
    assert serve[2].size == max(layer.size for layer in serve)


def test_nothing_of_the_build_stays(storage: Storage, images: dict[str, str], published: Path):
    with serving(storage, images["serve"], published) as (container, _):
        found = container.execute("sh", "-c", f"ls -d /build /opt/venv/bin/pip; command -v {' '.join(COMPILERS)}")
        assert found.stdout == ""


def output(storage: Storage, image: str, *command: str) -> str:
    with storage.container(image, Run(entrypoint=command, arguments=[])) as container:
        assert container.wait() == 0, container.output
        return container.output


@pytest.fixture(scope="module")
def installed(storage: Storage, images: dict[str, str]) -> dict[str, dict[str, str]]:
    """The versions of all distributions of each image, by canonical name."""
    listed = {image: json.loads(output(storage, name, "python", "-c", LIST)) for image, name in images.items()}
    return {image: {canonicalize_name(name): found[name] for name in found} for image, found in listed.items()}


def test_neither_image_has_what_only_the_other_needs(installed: dict[str, dict[str, str]]):
    assert installed["serve"].keys().isdisjoint(TRAINING)
    assert installed["train"].keys().isdisjoint(SERVING)


def test_every_version_is_the_pinned_one(installed: dict[str, dict[str, str]]):
    parsed = [Requirement(line) for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line]
    pins = {canonicalize_name(each.name): str(each.specifier).removeprefix("==") for each in parsed}
    for found in installed.values():
        others = {name: version for name, version in found.items() if version.removesuffix("+cpu") != pins.get(name)}
        assert all(name.startswith("rhapsode-") for name in others), others


def test_dependencies_are_whole(storage: Storage, images: dict[str, str]):
    for image in images.values():
        checked = output(storage, image, "pip", "--python", "/opt/venv/bin/python", "check")
        assert "No broken requirements found" in checked


def test_a_version_of_one_image_is_served_read_only_by_the_other(
    storage: Storage, images: dict[str, str], published: Path
):
    with serving(storage, images["serve"], published) as (container, address):
        assert generate(address) == 8
        for place in ("/models/new", "/opt/venv/new", "/etc/new"):
            assert "Read-only file system" in container.execute("touch", place).stderr
        code = "from rhapsode_server.engine.kernels import library; print(library() is not None)"
        assert container.execute("python", "-c", code).stdout == "True\n"


def test_python_is_process_one_without_privileges_and_stops_at_sigterm(
    storage: Storage, images: dict[str, str], published: Path
):
    with serving(storage, images["serve"], published) as (container, address):
        assert Path(os.readlink(f"/proc/{container.pid}/exe")).name.startswith("python3")
        assert status(container.pid, "NSpid")[-1] == "1"
        assert status(container.pid, "Uid") == ["10001"] * 4
        assert int(status(container.pid, "CapEff")[0], 16) == 0
        assert generate(address) == 8
        container.kill("TERM")
        assert container.wait(60) == 0, container.output


def test_any_user_may_serve(storage: Storage, images: dict[str, str], published: Path):
    """Some clusters give each namespace a user id of its own, which /etc/passwd does not know."""
    with serving(storage, images["serve"], published, user="1000650000:0") as (container, address):
        assert generate(address) == 8
        container.kill("TERM")
        assert container.wait(60) == 0, container.output


def test_training_stops_at_sigterm_with_the_code_for_it(storage: Storage, images: dict[str, str], tmp_path: Path):
    folders = {"/models": tmp_path / "models", "/work": tmp_path / "work"}
    for folder in folders.values():
        folder.mkdir()
        os.chown(folder, 10001, 10001)
    long = [*QUICKSTART, "--set=training.arguments.max_steps=5000"]
    with storage.container(images["train"], Run(arguments=long, writable=folders)) as container:
        container.wait_log("evaluate before: ")
        container.kill("TERM")
        assert container.wait(120) == 75, container.output
    assert not list((tmp_path / "models" / "poems").glob("[0-9]*"))
    assert json.dumps(container.output).count("Traceback") == 0
