"""The bill of materials of an image lists what is in that image, and nothing of the other."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

TOOLS = Path(__file__).parents[2] / "tools"


@pytest.fixture
def sbom(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(TOOLS))
    import sbom

    return sbom


def component(name: str, version: str = "1") -> dict[str, object]:
    licences = [{"license": {"id": "MIT"}}]
    return {"type": "library", "name": name, "version": version, "bom-ref": f"{name}=={version}", "licenses": licences}


def environment() -> dict[str, Any]:
    names = ("rhapsode-server", "Torch_Like", "typing", "pytest")
    return {
        "$schema": "s",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"timestamp": "now"},
        "components": [component(name) for name in names],
        "dependencies": [
            {"ref": "rhapsode-server==1", "dependsOn": ["Torch_Like==1"]},
            {"ref": "Torch_Like==1", "dependsOn": ["typing==1", "pytest==1"]},
            {"ref": "pytest==1"},
        ],
    }


def test_only_the_chosen_are_kept(sbom):
    chosen = sbom.select(
        environment(), "rhapsode-server", dict.fromkeys(("rhapsode-server", "torch-like", "typing"), "")
    )
    assert chosen["metadata"]["component"] == {**component("rhapsode-server"), "type": "application"}
    assert [each["name"] for each in chosen["components"]] == ["Torch_Like", "typing"]
    assert chosen["dependencies"] == [
        {"ref": "rhapsode-server==1", "dependsOn": ["Torch_Like==1"]},
        {"ref": "Torch_Like==1", "dependsOn": ["typing==1"]},
        {"ref": "typing==1", "dependsOn": []},
    ]


def test_a_licence_that_spdx_does_not_know_is_in_its_own_words(sbom):
    document = environment()
    del document["components"][2]["licenses"]
    chosen = sbom.select(document, "rhapsode-server", {"rhapsode-server": "a", "torch-like": "b", "typing": "PSF"})
    given = [each["licenses"] for each in chosen["components"]]
    assert given == [[{"license": {"id": "MIT"}}], [{"license": {"name": "PSF"}}]]


def test_the_sets_have_the_extras_of_the_images(sbom):
    for image, target in (("serve", "server"), ("train", "trainer")):
        dockerfile = (TOOLS.parent / f"Dockerfile.{image}").read_text()
        extras = re.findall(r"^ARG EXTRAS=(\S+)$", dockerfile, re.M)
        assert sbom.TARGETS[target] == f"rhapsode-{target}[{extras[0]}]"


def test_neither_set_holds_what_only_the_other_needs(sbom):
    server, trainer = (set(sbom.dependencies([line])) for line in sbom.TARGETS.values())
    assert {"torch", "transformers", "grpcio", "rhapsode-contract", "ftfy"} <= server & trainer
    assert server.isdisjoint({"accelerate", "datasets", "pyarrow", "pandas", "matplotlib", "peft", "optuna"})
    assert trainer.isdisjoint({"grpcio-reflection", "prometheus-client", "llguidance", "rhapsode-server"})
    assert (server | trainer).isdisjoint({"pytest", "mypy", "ruff", "rhapsode-client"})


def test_what_is_not_installed_is_named(sbom):
    with pytest.raises(sbom.NotInstalledError, match="no-such-distribution is not installed here"):
        sbom.dependencies(["no-such-distribution>1"])


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What the program writes of this environment."""
    folder = tmp_path_factory.mktemp("sbom")
    done = subprocess.run([sys.executable, TOOLS / "sbom.py", folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [(folder / f"{target}.cdx.json").read_text() for target in ("server", "trainer")]


def test_components_have_an_address_and_a_licence(written: list[str]):
    for components in (json.loads(text)["components"] for text in written):
        addresses = {each["name"]: each.get("purl", "") for each in components}
        assert addresses["torch"].startswith("pkg:pypi/torch@")
        assert all(each["licenses"] for each in components)
        assert "not stated" not in json.dumps(components)


@pytest.mark.skipif(os.environ.get("RHAPSODE_DEPLOY") != "1", reason="takes long: make check-deploy")
def test_the_documents_are_valid(written: list[str]):
    validator = JsonStrictValidator(SchemaVersion.V1_6)
    assert [validator.validate_str(text) for text in written] == [None, None]
