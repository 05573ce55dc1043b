"""What needs a download: custom resources against the schemas of their operators, and checkov. make check-deploy."""

import json
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.kubernetes import EXAMPLES, RENDERINGS, Resource, example, rendered

pytestmark = [
    pytest.mark.skipif(os.environ.get("RHAPSODE_DEPLOY") != "1", reason="downloads its tools: make check-deploy"),
    pytest.mark.timeout(900),
]

SCHEMAS = ("prometheus-operator@6.0.0", "keda@0.4.2", "cert-manager@6.0.0")
VALIDATE = """
import { readFileSync } from "node:fs";
const owners = {
  "monitoring.coreos.com": "prometheus-operator",
  "keda.sh": "keda",
  "cert-manager.io": "cert-manager",
};
for (const resource of JSON.parse(readFileSync(0))) {
  const owner = owners[resource.apiVersion.split("/")[0]];
  const module = await import(`@kubernetes-models/${owner}/${resource.apiVersion}/${resource.kind}`);
  new module[resource.kind](resource).validate();
  console.log(resource.kind);
}
"""
TRAINER = """
import json, sys
from kubeflow_trainer_api import models
for resource in json.load(sys.stdin):
    model = getattr(models, f"TrainerV1alpha1{resource['kind']}").from_dict(resource)
    print(json.dumps(model.to_dict()))
"""
CHECKOV = "checkov==3.3.30"
# Why what checkov would have is not done.
SKIPPED = {
    "CKV_K8S_15": "IfNotPresent: the content of a release's tag never changes",
    "CKV_K8S_35": "libraries read the tokens of the hub and of buckets from the environment alone",
    "CKV_K8S_43": "whoever builds the images knows their digests; an overlay can name them",
}


def custom_resources(*groups: str) -> Sequence[Resource]:
    everything = [*(rendered(name) for name in RENDERINGS), *(example(name) for name in EXAMPLES)]
    found = {json.dumps(each): each for resources in everything for each in resources}
    return [each for each in found.values() if each["apiVersion"].partition("/")[0] in groups]


@pytest.mark.skipif(not shutil.which("npm"), reason="needs npm: apt-get install npm")
def test_operators_accept_their_resources(tmp_path: Path) -> None:
    resources = custom_resources("monitoring.coreos.com", "keda.sh", "cert-manager.io")
    (tmp_path / "package.json").write_text('{"private": true}')
    packages = [f"@kubernetes-models/{package}" for package in SCHEMAS]
    run("npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error", *packages, cwd=tmp_path)
    (tmp_path / "validate.mjs").write_text(VALIDATE)
    kinds = run("node", "validate.mjs", cwd=tmp_path, given=json.dumps(resources)).split()
    assert kinds == [resource["kind"] for resource in resources]
    assert set(kinds) == {"PodMonitor", "PrometheusRule", "ScaledObject", "Issuer", "Certificate"}


def test_kubeflow_knows_every_field(tmp_path: Path) -> None:
    resources = custom_resources("trainer.kubeflow.org")
    run(sys.executable, "-m", "pip", "install", "-q", "--target", str(tmp_path), "kubeflow-trainer-api==2.3.0")
    answers = run(sys.executable, "-c", TRAINER, cwd=tmp_path, given=json.dumps(resources)).splitlines()
    assert len(answers) == len(resources) == 2
    for resource, answer in zip(resources, answers, strict=True):
        assert list(lost(resource, json.loads(answer))) == [], resource["kind"]


def lost(given: Any, kept: Any, path: str = "") -> Iterator[str]:
    """The paths of what a model did not keep: it does not know these fields."""
    if isinstance(given, dict):
        for key, value in given.items():
            found = key in kept if isinstance(kept, dict) else False
            yield from lost(value, kept[key], f"{path}.{key}") if found else [f"{path}.{key}"]
    elif isinstance(given, list):
        for number, (one, other) in enumerate(zip(given, kept, strict=True)):
            yield from lost(one, other, f"{path}.{number}")


def test_checkov_finds_nothing(tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=True)
    run(str(tmp_path / "venv/bin/python"), "-m", "pip", "install", "-q", CHECKOV)
    manifests = tmp_path / "manifests"
    manifests.mkdir()
    # The others have the component that opens the root filesystem.
    for name in (each for each in RENDERINGS if not each.startswith(("everything", "writable"))):
        (manifests / f"{name.replace(' ', '-')}.yaml").write_text(yaml.safe_dump_all(rendered(name)))
    checkov = [str(tmp_path / "venv/bin/checkov"), "--directory", str(manifests), "--framework", "kubernetes"]
    checkov += ["--skip-download", "--compact", "--quiet", "--output", "json", "--skip-check", ",".join(SKIPPED)]
    done = subprocess.run(checkov, capture_output=True, text=True, timeout=600)
    report = json.loads(done.stdout)
    failed = [(each["check_id"], each["check_name"], each["resource"]) for each in report["results"]["failed_checks"]]
    assert failed == []
    assert report["summary"]["passed"] > 500


def run(*command: str, cwd: Path | None = None, given: str | None = None) -> str:
    done = subprocess.run(command, cwd=cwd, input=given, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout
