"""What the Dockerfiles promise, read from their text."""

import json
import re
import subprocess
import sys
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from rhapsode_server.config import ServerConfig
from support.dockerfiles import Stage, read_instructions, read_stages

ROOT = Path(__file__).parents[2]
IMAGES = {"serve": "server", "train": "trainer"}
TRAINER_VARIABLES = {"RHAPSODE_MODELS", "RHAPSODE_WORK_DIR", "RHAPSODE_FEEDBACK_DIR"}
# buildah 1.28 builds neither of the last two; probes are the cluster's, and ADD fetches and unpacks unasked.
REFUSED = r"^HEALTHCHECK |^ADD |^SHELL |^VOLUME |<<|--link"


@pytest.fixture(params=IMAGES)
def image(request) -> str:
    return str(request.param)


@pytest.fixture
def path(image: str) -> Path:
    return ROOT / f"Dockerfile.{image}"


@pytest.fixture
def final(path: Path) -> Stage:
    return read_stages(path)[-1]


@pytest.fixture
def project(image: str) -> dict:
    return tomllib.loads((ROOT / IMAGES[image] / "pyproject.toml").read_text("utf-8"))["project"]


def test_hadolint_finds_nothing(path: Path):
    command = [str(Path(sys.executable).parent / "hadolint"), "--no-color", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_instruction_is_one_that_all_builders_know(path: Path):
    assert not re.findall(REFUSED, path.read_text("utf-8"), re.M)


def test_the_image_installs_nothing(final: Stage):
    """All is copied from other stages: so compilers, package lists and build files stay behind."""
    assert not [run for run in final.values("RUN") if not run.startswith("install --directory")]
    assert final.base == "base"


def test_the_user_is_a_number_other_than_root(final: Stage):
    assert final.values("USER") == ["10001:10001"]


def test_python_is_the_first_process(final: Stage, project: dict):
    """In exec form, a script of the distribution: no shell between it and the signals."""
    (entrypoint,) = final.values("ENTRYPOINT")
    (program,) = json.loads(entrypoint)
    assert program in project["scripts"]


def test_labels_tell_name_version_and_licence(image: str, final: Stage, project: dict):
    assert final.pairs("LABEL") == {
        "org.opencontainers.image.title": f"rhapsode-{image}",
        "org.opencontainers.image.description": project["description"],
        "org.opencontainers.image.version": project["version"],
        "org.opencontainers.image.licenses": project["license"],
    }


def test_variables_are_settings_of_the_program(image: str, final: Stage):
    known = {f"RHAPSODE_{each.name.upper()}" for each in fields(ServerConfig)}
    given = {name for name in final.pairs("ENV") if name.startswith("RHAPSODE_")}
    assert given
    assert given <= (known if image == "serve" else TRAINER_VARIABLES)


def test_the_extras_are_there(image: str, path: Path):
    (extras,) = re.findall(r"^ARG EXTRAS=(\S+)$", path.read_text("utf-8"), re.M)
    command = [sys.executable, "tools/requirements.py", f"{IMAGES[image]}[{extras}]"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_ports_are_the_programs_own():
    serve = read_stages(ROOT / "Dockerfile.serve")[-1]
    defaults = {each.name: each.default for each in fields(ServerConfig)}
    port = defaults["address"].rpartition(":")[2]
    assert serve.values("EXPOSE") == [f"{port} {defaults['metrics_port']}"]
    assert serve.pairs("ENV")["RHAPSODE_ADDRESS"] == f"0.0.0.0:{port}"


def test_both_images_share_the_layer_of_torch():
    """Layers are shared up to the first instruction that differs."""
    serve, train = (read_stages(ROOT / f"Dockerfile.{image}") for image in IMAGES)
    assert [stage.name for stage in serve[:3]] == ["base", "torch", "compiler"]
    assert serve[:3] == train[:3]
    assert serve[-1].instructions[:2] == train[-1].instructions[:2]
    assert serve[-1].instructions[0].arguments == "--from=torch /opt/venv /opt/venv"


def test_one_argument_chooses_the_build_of_torch(path: Path):
    """It is used nowhere but in the name of the file that pins it: another value finds no such file."""
    uses = [each for each in read_instructions(path) if re.search(r"\bTORCH\b", each.arguments)]
    assert [(each.keyword, each.arguments) for each in uses] == [
        ("ARG", "TORCH=cuda"),
        ("COPY", "deploy/images/torch-${TORCH}.txt /build/torch.txt"),
    ]


@pytest.mark.parametrize("build", ["cpu", "cuda"])
def test_the_layer_of_torch_has_the_pins_of_all(build: str):
    pins = read_pins(ROOT / "constraints.txt")
    layer = read_pins(ROOT / "deploy" / "images" / f"torch-{build}.txt")
    assert layer.pop("torch") == pins["torch"] + ("+cpu" if build == "cpu" else "")
    assert {name: pins.get(name) for name in layer if not name.startswith(("nvidia-", "cuda-"))}.items() <= pins.items()
    assert all(layer.values())


def read_pins(path: Path) -> dict[str, str]:
    lines = [line for line in path.read_text("utf-8").splitlines() if line and not line.startswith(("#", "--"))]
    parsed = map(Requirement, lines)
    return {canonicalize_name(each.name): str(each.specifier).removeprefix("==") for each in parsed}


def test_what_is_copied_is_sent_to_the_builder(path: Path):
    """.dockerignore leaves out all that it does not name."""
    ignored = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    let_in = [line[1:] for line in ignored if line.startswith("!")]
    copied = [source for stage in read_stages(path) for line in stage.values("COPY") for source in sources(line)]
    for source in copied:
        assert list(ROOT.glob(source.replace("${TORCH}", "*"))), source
        assert any(source == each or source.startswith(f"{each}/") for each in let_in), source


def sources(line: str) -> list[str]:
    """Those in the repository; another stage's are none."""
    return [] if line.startswith("--from") else line.split()[:-1]


def test_no_build_product_is_sent_to_the_builder():
    ignored = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    rules = [line for line in ignored if line and not line.startswith("#")]
    assert rules[0] == "*"
    assert {"**/__pycache__", "server/rhapsode_server/engine/kernels/built"} <= set(rules)
