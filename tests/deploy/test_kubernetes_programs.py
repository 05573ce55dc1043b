"""The manifests tell the programs what the programs understand."""

import re
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import grpc
import pytest
import typer
from grpc_health.v1.health_pb2 import HealthCheckRequest
from grpc_health.v1.health_pb2_grpc import HealthStub
from rhapsode_server.config import ServerConfig, load_config
from rhapsode_server.metrics import Metrics
from rhapsode_trainer.cli import app
from rhapsode_trainer.config import load_recipe, recipe_names
from rhapsode_trainer.errors import Busy, ConfigError, DataError, GateRejected, Interrupted
from support.kubernetes import (
    RENDERINGS,
    Resource,
    all_pods,
    claims_of,
    containers,
    environment,
    example,
    pod_templates,
    rendered,
    server_pod,
    the,
)
from support.servers import running_server

SECONDS_TO_STOP = 5
OWN_VARIABLES = {"CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_LOG_DIRECTORY"}

every_rendering = pytest.mark.parametrize("rendering", RENDERINGS)


def server_config(resources: Sequence[Resource]) -> ServerConfig:
    return load_config([], environment(server_pod(resources)[1], resources))


@every_rendering
def test_the_server_takes_its_settings(rendering: str) -> None:
    resources = rendered(rendering)
    known = {f"RHAPSODE_{name.upper()}" for name in ServerConfig.__dataclass_fields__} | OWN_VARIABLES
    assert environment(server_pod(resources)[1], resources).keys() <= known
    config = server_config(resources)
    assert not config.address.startswith("127."), "nobody could reach it"


@every_rendering
def test_ports_are_those_on_which_the_server_listens(rendering: str) -> None:
    config, (_, container) = server_config(rendered(rendering)), server_pod(rendered(rendering))
    ports = {each["name"]: each["containerPort"] for each in container["ports"]}
    assert ports == {
        "grpc": int(config.address.rpartition(":")[2]),
        "metrics": config.metrics_port,
        "health": config.health_port,
    }
    default = ServerConfig(models=config.models)
    assert ports["grpc"] == int(default.address.rpartition(":")[2])
    assert ports["metrics"] == default.metrics_port
    probes = [container[f"{kind}Probe"]["grpc"] for kind in ("startup", "readiness", "liveness")]
    assert {probe["port"] for probe in probes} == {config.health_port}


def test_a_running_server_answers_every_probe(tmp_path: Path) -> None:
    _, container = server_pod(rendered("base"))
    with running_server(tmp_path, "--standby", "off", "--health-port", "0") as server:
        match = re.search(r"health on ([^\s,]+)", server.output)
        assert match
        with grpc.insecure_channel(match[1]) as channel:
            for kind in ("startup", "readiness", "liveness"):
                service = container[f"{kind}Probe"]["grpc"]["service"]
                assert service == kind
                # Raises NOT_FOUND for a name that it does not know.
                HealthStub(channel).Check(HealthCheckRequest(service=service), timeout=10)


@every_rendering
def test_there_is_time_to_drain(rendering: str) -> None:
    (template, container), config = server_pod(rendered(rendering)), server_config(rendered(rendering))
    sleep = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    needed = sleep + config.shutdown_delay + config.drain_timeout + SECONDS_TO_STOP
    assert template["spec"]["terminationGracePeriodSeconds"] >= needed


@every_rendering
def test_jobs_know_the_exit_codes(rendering: str) -> None:
    assert Interrupted.exit_code == Busy.exit_code
    job = the(rendered(rendering), "CronJob", "rhapsode-trainer")["spec"]["jobTemplate"]["spec"]
    rules = job["podFailurePolicy"]["rules"]
    by_code = {rule["action"]: rule["onExitCodes"]["values"] for rule in rules if "onExitCodes" in rule}
    assert by_code == {
        "Ignore": [Interrupted.exit_code],
        "FailJob": sorted(error.exit_code for error in (ConfigError, DataError, GateRejected)),
    }
    assert {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]} in rules


@every_rendering
def test_the_trainer_understands_what_it_is_told(rendering: str) -> None:
    resources = rendered(rendering)
    commands = typer.main.get_command(app)
    assert isinstance(commands, click.Group | typer.core.TyperGroup)
    told = list(_trainer_containers(resources))
    assert told
    for container in told:
        variables = environment(container, resources)
        options = [option for command in commands.commands.values() for option in command.params]
        known = {str(option.envvar) for option in options if option.envvar}
        assert {name for name in variables if name.startswith("RHAPSODE_")} <= known
        arguments = [_expand(text, variables) for text in container["args"]]
        command = commands.commands[arguments[0]]
        assert {text for text in arguments if text.startswith("--")} <= {
            name for each in command.params for name in each.opts
        }


def _trainer_containers(resources: Sequence[Resource]) -> Iterator[Resource]:
    """Those that run the trainer's image by its own entry point."""
    for _, template in pod_templates(resources):
        for container in containers(template):
            if "rhapsode-train" in container["image"] and "command" not in container:
                yield container


def _expand(text: str, variables: Mapping[str, str]) -> str:
    """As the kubelet does; a name that is not there stays as it is, and is an error here."""
    return re.sub(r"\$\((\w+)\)", lambda match: variables[match[1]], text)


@every_rendering
def test_training_ends_before_the_cluster_ends_it(rendering: str) -> None:
    job = the(rendered(rendering), "CronJob", "rhapsode-trainer")["spec"]["jobTemplate"]["spec"]
    trainer = next(each for each in containers(job["template"]) if each["name"] == "trainer")
    minutes = int(trainer["args"][trainer["args"].index("--max-minutes") + 1])
    assert minutes * 60 < job["activeDeadlineSeconds"]
    assert environment(trainer, rendered(rendering))["RECIPE"] in recipe_names()


def test_a_train_job_has_the_settings_of_the_schedule() -> None:
    base = rendered("base")
    ((_, template),) = pod_templates(example("trainjob"))
    scheduled = dict(pod_templates(base))["rhapsode-trainer"]
    (one,), (many,) = scheduled["spec"]["containers"], template["spec"]["containers"]
    wanted = {name: text for name, text in environment(one, base).items() if name.startswith(("RHAPSODE_", "HF_HOME"))}
    assert environment(many, ()) == wanted
    command, recipe, *options = many["args"]
    assert (command, options[options.index("--set") - 2]) == ("run", "--name")
    load_recipe(recipe, [options[options.index("--set") + 1]])
    assert claims_of(template) == claims_of(scheduled)


@every_rendering
def test_what_is_watched_is_exported(rendering: str) -> None:
    exported = {name for family in Metrics().registry.collect() for name in _series(family.name, family.type)}
    watching = ("PrometheusRule", "ScaledObject", "HorizontalPodAutoscaler")
    for resource in rendered(rendering):
        if resource["kind"] in watching:
            named = set(re.findall(r"\brhapsode_[a-z_]+", str(_without_names(resource["spec"]))))
            assert named, resource["kind"]
            assert named <= exported, resource["kind"]


def test_alerts_on_training_watch_the_trainer() -> None:
    expressions = str(_without_names(the(rendered("monitoring"), "PrometheusRule", "rhapsode")["spec"]))
    patterns = re.findall(r'(?:cronjob|job_name)=~"([^"]+)"', expressions)
    name = the(rendered("monitoring"), "CronJob", "rhapsode-trainer")["metadata"]["name"]
    assert patterns
    assert all(re.fullmatch(pattern, name) for pattern in patterns)


def _series(name: str, kind: str) -> Sequence[str]:
    parts = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}
    return [name + part for part in parts.get(kind, ("",))]


def _without_names(value: Any) -> Any:
    """Expressions only: what is said to people may name anything."""
    if isinstance(value, dict):
        return {key: _without_names(each) for key, each in value.items() if key not in ("annotations", "alert")}
    return [_without_names(each) for each in value] if isinstance(value, list) else value


def test_images_are_of_this_release() -> None:
    for name, template in all_pods():
        for container in containers(template):
            image, _, tag = container["image"].rpartition(":")
            distribution = {"rhapsode-serve": "rhapsode-server", "rhapsode-train": "rhapsode-trainer"}
            assert tag.rpartition("-")[0] == version(distribution[image.rpartition("/")[2]]), name
            assert tag.rpartition("-")[2] in ("cpu", "cuda"), name
