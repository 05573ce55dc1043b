"""The compose files: what they start exists, takes the flags that it is given, and is safe to have on one's machine."""

import re
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from compose_spec import PyCompose
from rhapsode_server.config import ServerConfig, load_config
from rhapsode_trainer.cli import app

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "compose"
COMPOSE = yaml.safe_load((FOLDER / "docker-compose.yml").read_text("utf-8"))
GPU = yaml.safe_load((FOLDER / "docker-compose.gpu.yml").read_text("utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = ("server", "trainer")


def mounts(service: str) -> list[tuple[str, str, bool]]:
    """Source, target, and whether it is read-only."""
    parts = [volume.split(":") for volume in SERVICES[service]["volumes"]]
    return [(part[0], part[1], part[2:] == ["ro"]) for part in parts]


def yaml_of(name: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((FOLDER / name).read_text("utf-8"))
    return content


def server_config(tmp_path: Path) -> ServerConfig:
    flags = [flag.replace("=/models", f"={tmp_path}") for flag in SERVICES["server"]["command"]]
    return load_config(flags, {})


def stage_arguments(dockerfile: str) -> set[str]:
    return set(re.findall(r"^ARG (\w+)", (ROOT / dockerfile).read_text("utf-8"), re.MULTILINE))


def test_the_server_takes_its_flags(tmp_path: Path) -> None:
    config = server_config(tmp_path)
    grace = SERVICES["server"]["stop_grace_period"]
    assert float(grace.removesuffix("s")) >= config.shutdown_delay + config.drain_timeout + 5


def test_the_trainer_takes_its_flags() -> None:
    name, *arguments = SERVICES["trainer"]["command"]
    command = typer.main.get_command(app).commands[name]  # type: ignore[attr-defined]
    given = command.make_context(name, list(arguments)).params
    assert (given["recipe"], str(given["models"]), str(given["work_dir"])) == ("quickstart", "/models", "/work")


def test_it_trains_only_when_it_is_told_to() -> None:
    assert [name for name, service in SERVICES.items() if "profiles" in service] == ["trainer"]


@pytest.mark.parametrize("service", [*SERVICES, *(f"gpu {name}" for name in GPU["services"])])
def test_an_image_is_pinned_or_built_here(service: str) -> None:
    name = service.removeprefix("gpu ")
    settings = SERVICES[name] | (GPU["services"][name] if name != service else {})
    if "build" not in SERVICES[name]:
        assert re.search(r":v?\d+\.\d+\.\d+$", settings["image"])
        return
    build = SERVICES[name]["build"] | settings["build"]
    assert (FOLDER / build["context"] / build["dockerfile"]).is_file()
    assert set(build["args"]) <= stage_arguments(build["dockerfile"])
    for value in build["args"].values():
        assert (ROOT / "deploy" / "images" / f"torch-{value}.txt").is_file()


@pytest.mark.parametrize("service", SERVICES)
def test_what_is_mounted_exists(service: str) -> None:
    for source, _, is_read_only in mounts(service):
        if source.startswith("."):
            assert (FOLDER / source).is_file()
            assert is_read_only
        else:
            assert source in COMPOSE["volumes"]


def test_no_volume_is_unused() -> None:
    assert {source for service in SERVICES for source, _, _ in mounts(service)} >= set(COMPOSE["volumes"])


def test_the_server_cannot_write_what_the_trainer_publishes() -> None:
    assert ("models", "/models", True) in mounts("server")
    assert ("models", "/models", False) in mounts("trainer")


@pytest.mark.parametrize("service", OURS)
def test_ours_run_with_nothing_that_they_do_not_need(service: str) -> None:
    settings = SERVICES[service]
    assert settings["read_only"] is True
    assert settings["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in settings["security_opt"]
    written = {target for _, target, is_read_only in mounts(service) if not is_read_only}
    image = (ROOT / settings["build"]["dockerfile"]).read_text("utf-8")
    assert all(f"rhapsode {path}\n" in image for path in written), "the image's user cannot write there"


def test_nothing_is_open_to_others() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", ())]
    assert ports
    assert all(re.fullmatch(r"127\.0\.0\.1:(\d+):\1", port) for port in ports)


def test_prometheus_scrapes_the_server_and_knows_the_rules(tmp_path: Path) -> None:
    prometheus = yaml_of("prometheus.yml")
    (scrape,) = prometheus["scrape_configs"]
    (target,) = scrape["static_configs"][0]["targets"]
    config = server_config(tmp_path)
    assert target == f"server:{config.metrics_port}"
    assert config.host == "0.0.0.0", "else it is not reached from another container"
    assert [f"/etc/prometheus/{name}" for name in prometheus["rule_files"]] == [
        target for source, target, _ in mounts("prometheus") if source.startswith("../prometheus/")
    ]


def test_grafana_finds_prometheus_and_the_dashboard() -> None:
    (source,) = yaml_of("grafana/datasource.yml")["datasources"]
    port = SERVICES["prometheus"]["ports"][0].rpartition(":")[2]
    assert source["url"] == f"http://prometheus:{port}"
    assert source["jsonData"]["timeInterval"] == yaml_of("prometheus.yml")["global"]["scrape_interval"]
    (provider,) = yaml_of("grafana/dashboards.yml")["providers"]
    dashboard = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert ("../grafana/rhapsode.json", dashboard, True) in mounts("grafana")
    assert dashboard.startswith(provider["options"]["path"])


def test_a_gpu_is_asked_for_by_both() -> None:
    assert set(GPU["services"]) == set(OURS)
    for settings in GPU["services"].values():
        (device,) = settings["deploy"]["resources"]["reservations"]["devices"]
        assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])


@pytest.mark.parametrize("content", [COMPOSE, GPU], ids=["docker-compose.yml", "docker-compose.gpu.yml"])
def test_it_is_what_the_compose_specification_allows(content: dict[str, Any]) -> None:
    PyCompose.from_yaml(yaml.safe_dump(content)).validate()


def test_a_field_that_compose_does_not_know_is_noticed() -> None:
    unknown = {"services": {"server": {"image": "rhapsode-serve", "comand": ["--help"]}}}
    with pytest.raises(ValueError, match="comand"):
        PyCompose.from_yaml(yaml.safe_dump(unknown))
