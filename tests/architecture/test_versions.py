"""One version everywhere, and a pin for everything that is installed."""

import ast
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
DISTRIBUTIONS = {
    "proto": "rhapsode_contract",
    "client": "rhapsode_client",
    "server": "rhapsode_server",
    "trainer": "rhapsode_trainer",
}
Pins = dict[str, str]


def read_toml(folder: str) -> dict[str, Any]:
    return tomllib.loads((ROOT / folder / "pyproject.toml").read_text("utf-8"))


def requirements(project: dict[str, Any]) -> list[str]:
    """All that installing the distribution, with each of its extras, asks for; also what building it takes."""
    extras = project["project"].get("optional-dependencies", {}).values()
    return [
        *project["build-system"]["requires"],
        *project["project"]["dependencies"],
        *(line for extra in extras for line in extra),
    ]


def content_lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]


def read_pins(text: str) -> Pins:
    pins = (Requirement(line) for line in content_lines(text))
    return {canonicalize_name(pin.name): str(pin.specifier) for pin in pins}


def unpinned(lines: list[str], pins: Pins) -> list[str]:
    """The requirements without a pin, or with one outside their range."""
    found = []
    for requirement in map(Requirement, lines):
        pin = pins.get(canonicalize_name(requirement.name), "")
        if not pin.startswith("==") or not requirement.specifier.contains(pin[2:]):
            found.append(str(requirement))
    return found


def module_version(source: str) -> str:
    for node in ast.parse(source).body:
        match node:
            case ast.Assign([ast.Name("__version__")], ast.Constant(str(version))):
                return version
    raise AssertionError("no __version__")


@pytest.fixture(scope="module")
def version() -> str:
    """That of the contract, which all others are compared with."""
    return str(read_toml("proto")["project"]["version"])


@pytest.fixture(scope="module")
def pins(version: str) -> Pins:
    ours = {canonicalize_name(package): f"=={version}" for package in DISTRIBUTIONS.values()}
    return read_pins((ROOT / "constraints.txt").read_text("utf-8")) | ours


@pytest.mark.parametrize(("folder", "package"), DISTRIBUTIONS.items())
def test_the_distribution_has_the_version(folder: str, package: str, version: str):
    assert read_toml(folder)["project"]["version"] == version
    assert module_version((ROOT / folder / package / "__init__.py").read_text("utf-8")) == version


def test_the_changelog_begins_with_the_version(version: str):
    headings = re.findall(r"^## \[(.+?)\] - (?:Unreleased|\d{4}-\d\d-\d\d)$", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert headings[0] == version


@pytest.mark.parametrize("folder", DISTRIBUTIONS)
def test_every_requirement_is_pinned_within_its_range(folder: str, pins: Pins):
    assert not unpinned(requirements(read_toml(folder)), pins)


def test_every_development_tool_is_pinned(pins: Pins):
    assert not unpinned(content_lines((ROOT / "requirements-dev.txt").read_text("utf-8")), pins)


def test_an_unpinned_requirement_is_caught():
    pins = read_pins("# pins\nGood_One==1.2.0\nloose>=1\nold==1.0\n")
    lines = ["good-one>=1", "good.one[extra]>=1.2", "loose", "old>=1.1", "absent"]
    assert unpinned(lines, pins) == ["loose", "old>=1.1", "absent"]


def test_extras_and_the_build_are_requirements():
    project = {"dependencies": ["a"], "optional-dependencies": {"text": ["b"], "more": ["c"]}}
    assert requirements({"project": project, "build-system": {"requires": ["d"]}}) == ["d", "a", "b", "c"]
