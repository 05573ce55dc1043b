"""deploy/kubernetes renders, and what it renders is what Kubernetes understands."""

import json
import re
import runpy
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

import kubernetes_validate
import pytest
import yaml
from support.kubernetes import (
    COMPONENTS,
    EXAMPLES,
    KUBERNETES,
    OVERLAYS,
    RENDERINGS,
    RenderingError,
    Resource,
    containers,
    example,
    of_kind,
    pod_templates,
    rendered,
    stack,
    the,
)

VERSIONS = ("1.30", "1.33", "1.37")

# Of kinds that no schema here knows, `*` for any key or index; a cluster drops silently what it does not know.
CUSTOM_FIELDS = {
    "PodMonitor": ("spec.selector.matchLabels.*", "spec.podMetricsEndpoints.*.{port,interval}"),
    "PrometheusRule": (
        "spec.groups.*.{name,interval}",
        "spec.groups.*.rules.*.{record,alert,expr,for,keep_firing_for}",
        "spec.groups.*.rules.*.{labels,annotations}.*",
    ),
    "ScaledObject": (
        "spec.scaleTargetRef.name",
        "spec.{minReplicaCount,maxReplicaCount,pollingInterval}",
        "spec.fallback.{failureThreshold,replicas}",
        "spec.advanced.horizontalPodAutoscalerConfig.behavior.{scaleUp,scaleDown}.stabilizationWindowSeconds",
        "spec.advanced.horizontalPodAutoscalerConfig.behavior.{scaleUp,scaleDown}.policies.*.{type,value,periodSeconds}",
        "spec.triggers.*.{type,metricType}",
        "spec.triggers.*.metadata.{serverAddress,query,threshold}",
    ),
    "TrainJob": ("spec.runtimeRef.{apiGroup,kind,name}", "spec.trainer.{numNodes,numProcPerNode}"),
    "TrainingRuntime": (
        "spec.mlPolicy.numNodes",
        "spec.mlPolicy.torch",
        "spec.template.spec.replicatedJobs.*.name",
        "spec.template.spec.replicatedJobs.*.template.metadata.labels.*",
        "spec.template.spec.replicatedJobs.*.template.spec.**",
    ),
    "Issuer": ("spec.selfSigned", "spec.ca.secretName"),
    "Certificate": (
        "spec.{isCA,commonName,secretName,duration,renewBefore}",
        "spec.{usages,dnsNames}.*",
        "spec.privateKey.{algorithm,size,rotationPolicy}",
        "spec.issuerRef.{kind,name}",
    ),
}


@pytest.fixture(autouse=True)
def schemas_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else kubernetes_validate parses two megabytes for each resource."""
    monkeypatch.setattr(kubernetes_validate.utils, "schema_contents", _schema_contents)


_schema_contents = cache(kubernetes_validate.utils.schema_contents)


@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_knows_every_field(version: str) -> None:
    for rendering, resource in distinct_resources():
        try:
            kubernetes_validate.validate(resource, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            pytest.fail(f"{rendering}: {resource['kind']} {resource['metadata']['name']}: {error}")


def distinct_resources() -> Iterable[tuple[str, Resource]]:
    """Of the kinds of Kubernetes itself, each different one once, with a rendering that has it."""
    found = {json.dumps(each): (name, each) for name in RENDERINGS for each in rendered(name)}
    return [(name, each) for name, each in found.values() if each["kind"] not in CUSTOM_FIELDS]


@pytest.mark.parametrize("version", VERSIONS)
def test_the_pods_of_a_training_runtime_are_pods(version: str) -> None:
    (runtime,) = of_kind(example("trainjob"), "TrainingRuntime")
    for job in runtime["spec"]["template"]["spec"]["replicatedJobs"]:
        as_job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "one"}, "spec": job["template"]["spec"]}
        kubernetes_validate.validate(as_job, version, strict=True)


def test_a_field_that_kubernetes_does_not_know_is_found() -> None:
    service = {**the(rendered("base"), "Service", "rhapsode"), "sepc": {}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(service, VERSIONS[-1], strict=True)


@pytest.mark.parametrize("rendering", [*RENDERINGS, *(f"examples/{name}" for name in EXAMPLES)])
def test_custom_resources_have_known_fields_only(rendering: str) -> None:
    resources = example(rendering.removeprefix("examples/")) if "/" in rendering else rendered(rendering)
    for resource in resources:
        if known := CUSTOM_FIELDS.get(resource["kind"]):
            unknown = [path for path in _paths(resource["spec"], "spec") if not _is_known(path, known)]
            assert not unknown, resource["kind"]


def test_an_unknown_field_of_a_custom_resource_is_found() -> None:
    assert not _is_known("spec.podMetricsEndpoint.0.port", CUSTOM_FIELDS["PodMonitor"])


def test_both_autoscalers_together_do_not_build() -> None:
    with pytest.raises(RenderingError, match="replicas"):
        stack(["hpa", "keda"])


@pytest.mark.parametrize("rendering", RENDERINGS)
def test_who_is_scaled_has_no_replicas_of_its_own(rendering: str) -> None:
    resources = rendered(rendering)
    scalers = [*of_kind(resources, "HorizontalPodAutoscaler"), *of_kind(resources, "ScaledObject")]
    deployment = the(resources, "Deployment", "rhapsode-server")
    assert len(scalers) <= 1
    assert ("replicas" in deployment["spec"]) is not bool(scalers)
    assert all(each["spec"]["scaleTargetRef"]["name"] == "rhapsode-server" for each in scalers)


def test_an_overlay_is_in_one_namespace_under_pod_security() -> None:
    for overlay in OVERLAYS:
        (namespace,) = of_kind(rendered(overlay), "Namespace")
        assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
        others = [each for each in rendered(overlay) if each["kind"] != "Namespace"]
        assert {each["metadata"]["namespace"] for each in others} == {namespace["metadata"]["name"]}


def test_a_gpu_is_asked_for_where_it_is_used() -> None:
    templates = dict(pod_templates(rendered("gpu")))
    for name in ("rhapsode-server", "rhapsode-trainer"):
        (container,) = templates[name]["spec"]["containers"]
        assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
        assert container["image"].endswith("-cuda")
        assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in templates[name]["spec"][
            "tolerations"
        ]
    assert "nvidia.com/gpu" not in str(templates["rhapsode-cleanup"])


def test_a_full_cluster_surges_nowhere() -> None:
    strategy = the(rendered("full-cluster"), "Deployment", "rhapsode-server")["spec"]["strategy"]
    assert strategy["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1}
    strategy = the(rendered("base"), "Deployment", "rhapsode-server")["spec"]["strategy"]
    assert strategy["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}


def test_only_that_component_opens_the_root_filesystem() -> None:
    for rendering in RENDERINGS:
        opened = {
            container["name"]
            for _, template in pod_templates(rendered(rendering))
            for container in containers(template)
            if not container["securityContext"]["readOnlyRootFilesystem"]
        }
        is_open = rendering.startswith("everything") or rendering == "writable-rootfs"
        assert opened == ({"server", "trainer"} if is_open else set()), rendering


def test_object_storage_needs_no_shared_volume() -> None:
    for rendering in ("object-storage", "everything"):
        resources = rendered(rendering)
        modes = [claim["spec"]["accessModes"] for claim in of_kind(resources, "PersistentVolumeClaim")]
        assert modes == [["ReadWriteOnce"]] * len(modes)
        templates = dict(pod_templates(resources))
        assert "persistentVolumeClaim" not in str(templates["rhapsode-server"])
        assert [each["name"] for each in containers(templates["rhapsode-trainer"])] == ["trainer", "push"]


def test_the_rules_are_those_of_prometheus(capsys: pytest.CaptureFixture[str]) -> None:
    tool = runpy.run_path(str(KUBERNETES.parents[1] / "tools" / "prometheus_rule.py"))
    assert tool["main"](["--check"]) == 0, capsys.readouterr().err
    (rule,) = of_kind(rendered("monitoring"), "PrometheusRule")
    assert rule["spec"] == yaml.safe_load((KUBERNETES.parent / "prometheus" / "rules.yml").read_text())


def test_the_dashboard_is_there_for_grafana() -> None:
    dashboard = the(rendered("monitoring"), "ConfigMap", "rhapsode-dashboard")
    assert dashboard["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert json.loads(dashboard["data"]["rhapsode.json"])["panels"]


def test_readme_names_every_part() -> None:
    text = (KUBERNETES.parent / "README.md").read_text()
    parts = [*(f"components/{name}" for name in COMPONENTS), *(f"overlays/{name}" for name in OVERLAYS)]
    parts += [f"examples/{name}.yaml" for name in EXAMPLES]
    assert [part for part in parts if part not in text] == []


def _paths(value: Any, path: str) -> Iterator[str]:
    """Of every leaf."""
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found = [each for key, child in children for each in _paths(child, f"{path}.{str(key).replace('.', '~')}")]
    yield from found or [path]


def _is_known(path: str, known: tuple[str, ...]) -> bool:
    return any(re.fullmatch(_expression(each), path) for each in known)


def _expression(known: str) -> str:
    """`{a,b}` is either, `*` one key, `**` whatever lies below."""
    text = re.escape(known).replace(r"\{", "(").replace(r"\}", ")").replace(",", "|")
    return text.replace(r"\*\*", ".+").replace(r"\*", r"[^.]+")
