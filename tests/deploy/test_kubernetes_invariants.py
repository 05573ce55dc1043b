"""What no schema says: the resources agree with each other, and keep to what a strict cluster asks."""

import re
from collections.abc import Iterator, Mapping

import pytest
from support.kubernetes import (
    RENDERINGS,
    Resource,
    all_pods,
    claims_of,
    containers,
    environment,
    example,
    of_kind,
    pod_templates,
    rendered,
    server_pod,
    the,
)

every_rendering = pytest.mark.parametrize("rendering", RENDERINGS)


@every_rendering
def test_jobs_are_safe_to_repeat(rendering: str) -> None:
    for cron in of_kind(rendered(rendering), "CronJob"):
        spec, job = cron["spec"], cron["spec"]["jobTemplate"]["spec"]
        assert len(cron["metadata"]["name"]) <= 52, "longer names are refused: jobs get a suffix"
        assert spec["concurrencyPolicy"] == "Forbid"
        assert {"timeZone", "startingDeadlineSeconds"} <= spec.keys()
        assert {"backoffLimit", "activeDeadlineSeconds", "ttlSecondsAfterFinished"} <= job.keys()
        # The API takes podFailurePolicy with these two only.
        assert (job["podReplacementPolicy"], job["template"]["spec"]["restartPolicy"]) == ("Failed", "Never")
        names = {container["name"] for container in containers(job["template"])}
        assert {rule["onExitCodes"]["containerName"] for rule in _exit_rules(job)} <= names


def _exit_rules(job: Resource) -> list[Resource]:
    return [rule for rule in job["podFailurePolicy"]["rules"] if "onExitCodes" in rule]


def test_pods_satisfy_pod_security_restricted() -> None:
    for name, template in all_pods():
        spec = template["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True, name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys(), name
        kinds = {kind for volume in spec["volumes"] for kind in volume if kind != "name"}
        assert kinds <= {"configMap", "secret", "emptyDir", "persistentVolumeClaim", "projected"}, name
        for container in containers(template):
            security = container["securityContext"]
            assert security["allowPrivilegeEscalation"] is False, name
            assert security["capabilities"] == {"drop": ["ALL"]}, name
            assert "privileged" not in security, name


def test_pods_ask_for_what_they_use_and_for_no_token() -> None:
    for name, template in all_pods():
        spec = template["spec"]
        assert spec["automountServiceAccountToken"] is False, name
        assert spec["enableServiceLinks"] is False, name
        assert spec["securityContext"]["runAsUser"] == 10001, name
        for container in containers(template):
            requests, limits = (container["resources"][kind] for kind in ("requests", "limits"))
            assert requests.keys() == limits.keys() >= {"cpu", "memory", "ephemeral-storage"}, name
            assert container["terminationMessagePolicy"] == "FallbackToLogsOnError", name
    for rendering in RENDERINGS:
        accounts = of_kind(rendered(rendering), "ServiceAccount")
        assert all(each["automountServiceAccountToken"] is False for each in accounts)
        used = {template["spec"]["serviceAccountName"] for _, template in pod_templates(rendered(rendering))}
        assert used == {each["metadata"]["name"] for each in accounts}


@every_rendering
def test_volumes_are_there_and_used(rendering: str) -> None:
    resources = rendered(rendering)
    claims = {claim["metadata"]["name"] for claim in of_kind(resources, "PersistentVolumeClaim")}
    claimed: set[str] = set()
    for name, template in pod_templates(resources):
        volumes = {volume["name"]: volume for volume in template["spec"]["volumes"]}
        assert len(volumes) == len(template["spec"]["volumes"]), name
        mounts = [mount for container in containers(template) for mount in container["volumeMounts"]]
        assert {mount["name"] for mount in mounts} == volumes.keys(), name
        assert all(len(volume) == 2 for volume in volumes.values()), "of one kind only"
        # What is mounted by subPath never sees renewed Secrets.
        assert not any("subPath" in mount for mount in mounts), name
        claimed |= claims_of(template)
    assert claimed == claims


@every_rendering
def test_only_publishers_can_write_models(rendering: str) -> None:
    resources = rendered(rendering)
    writers: set[str] = set()
    readers: set[str] = set()
    for _, template in pod_templates(resources):
        for container in containers(template):
            for mount in container["volumeMounts"]:
                if mount["name"] == "models":
                    (readers if mount.get("readOnly") else writers).add(container["name"])
    assert readers == {"server"}
    assert writers <= {"trainer", "cleanup", "push", "pull"}
    volumes = {volume["name"]: volume for volume in server_pod(resources)[0]["spec"]["volumes"]}
    assert volumes["models"].get("persistentVolumeClaim", {"readOnly": True})["readOnly"] is True


@every_rendering
def test_paths_in_settings_are_mounted(rendering: str) -> None:
    resources = rendered(rendering)
    for name, template in pod_templates(resources):
        for container in containers(template):
            places = [mount["mountPath"] for mount in container["volumeMounts"]]
            paths = [text for key, text in environment(container, resources).items() if _is_used(key, container, text)]
            missing = [path for path in paths if not any(f"{path}/".startswith(f"{place}/") for place in places)]
            assert not missing, f"{name}: {container['name']}"


def _is_used(key: str, container: Resource, text: str) -> bool:
    """The steps beside training share its settings, and read no more of them than RHAPSODE_MODELS."""
    helper = container["name"] in ("cleanup", "push", "pull")
    return text.startswith("/") and (key == "RHAPSODE_MODELS" or not helper)


@every_rendering
def test_whatever_selects_pods_selects_some(rendering: str) -> None:
    resources = rendered(rendering)
    labels = [template["metadata"]["labels"] for _, template in pod_templates(resources)]
    ports = {each["name"] for each in server_pod(resources)[1]["ports"]}
    for resource in resources:
        for selector in _selectors(resource):
            assert any(selector.items() <= each.items() for each in labels), resource["metadata"]["name"]
        assert set(_named_ports(resource)) <= ports, resource["metadata"]["name"]


def _selectors(resource: Resource) -> Iterator[Mapping[str, str]]:
    spec = resource.get("spec", {})
    if resource["kind"] == "Service":
        yield spec["selector"]
    elif resource["kind"] == "NetworkPolicy":
        yield spec["podSelector"]["matchLabels"]
    elif resource["kind"] in ("PodDisruptionBudget", "PodMonitor", "Deployment"):
        yield spec["selector"]["matchLabels"]


def _named_ports(resource: Resource) -> Iterator[str]:
    spec = resource.get("spec", {})
    if resource["kind"] == "Service":
        yield from (each["targetPort"] for each in spec["ports"])
    elif resource["kind"] == "PodMonitor":
        yield from (each["port"] for each in spec["podMetricsEndpoints"])
    elif resource["kind"] == "NetworkPolicy":
        ports = [port["port"] for rule in spec.get("ingress", ()) for port in rule["ports"]]
        yield from (port for port in ports if isinstance(port, str))


@every_rendering
def test_every_pod_is_behind_the_default_policy(rendering: str) -> None:
    policy = the(rendered(rendering), "NetworkPolicy", "rhapsode-default-deny")["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert not {"ingress", "egress"} & policy.keys()
    for _, template in pod_templates(rendered(rendering)):
        assert policy["podSelector"]["matchLabels"].items() <= template["metadata"]["labels"].items()


@every_rendering
def test_the_scaler_asks_for_its_own_namespace(rendering: str) -> None:
    for scaler in of_kind(rendered(rendering), "ScaledObject"):
        namespaces = re.findall(r'namespace="([^"]+)"', str(scaler["spec"]["triggers"]))
        assert namespaces == [scaler["metadata"]["namespace"]]


def test_certificates_name_the_services() -> None:
    (certificate,) = (
        each
        for each in of_kind(example("certificates"), "Certificate")
        if each["metadata"]["name"] == "rhapsode-server"
    )
    services = [service["metadata"]["name"] for service in of_kind(rendered("base"), "Service")]
    names = certificate["spec"]["dnsNames"]
    assert {f"{service}.rhapsode.svc" for service in services} <= set(names)
    volumes = server_pod(rendered("mtls"))[0]["spec"]["volumes"]
    assert certificate["spec"]["secretName"] in [volume.get("secret", {}).get("secretName") for volume in volumes]
