"""Runs as a schedule sees them: nothing new, refused, forced, stopped and gone on, short of time, with an adapter."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rhapsode_contract.model_directory import ModelDirectory, verify_version

pytestmark = pytest.mark.usefixtures("check_here")


@pytest.fixture
def run(cli: Callable[..., Any], tmp_path: Path, tiny_run: list[str]) -> Callable[..., Any]:
    folders = ["--models", tmp_path / "models", "--work-dir", tmp_path / "work", "--name", "poems"]
    return lambda *more: cli("run", "quickstart", *folders, *tiny_run, *more)


@pytest.fixture
def model(tmp_path: Path) -> Any:
    return ModelDirectory(tmp_path / "models").model("poems")


def test_a_run_with_nothing_new_ends_at_once(run: Callable[..., Any], model: Any) -> None:
    assert run().code == 0
    again = run()
    assert (again.code, again.err) == (0, "")
    assert again.out == "nothing new: version 1 was made of the same data, recipe and code\n"
    assert model.versions() == [1]
    assert run("--set=seed=1").code == 0
    assert model.aliases() == {"champion": 2, "previous": 1}


def test_what_the_gate_refuses_stays_a_candidate(run: Callable[..., Any], model: Any, tmp_path: Path) -> None:
    assert run().code == 0
    refused = run("--set=gate.min_words=500", "--set=seed=1")
    assert refused.code == 4
    assert "is kept as candidate: failed: " in refused.err
    assert refused.err.count("\n") == 1
    assert model.aliases() == {"champion": 1, "candidate": 2}
    verify_version(model.version_path(2))
    verdict = json.loads((model.version_path(2) / "evaluation.json").read_text())["verdict"]
    assert (verdict["accepted"], verdict["opponent"]) == (False, 1)
    assert json.loads((tmp_path / "work" / "poems" / "status.json").read_text())["phase"] == "refused"
    again = run("--set=gate.min_words=500", "--set=seed=1")
    assert (again.code, again.out.startswith("nothing new: version 2")) == (0, True)
    forced = run("--set=gate.min_words=500", "--set=seed=1", "--force")
    assert forced.code == 0
    assert model.aliases()["champion"] == 3
    assert "forced although it failed" in model.history()[-1]["reason"]


def test_a_champion_that_servers_refused_is_not_the_one_to_beat(
    run: Callable[..., Any], model: Any, tmp_path: Path
) -> None:
    assert run().code == 0
    feedback = tmp_path / "feedback" / "poems"
    feedback.mkdir(parents=True)
    verdict = {"schema_version": 1, "verdict": "quarantined", "reason": "canary off", "server": "a"}
    (feedback / "1.json").write_text(json.dumps(verdict))
    assert run("--set=seed=1", "--feedback-dir", tmp_path / "feedback").code == 0
    recorded = json.loads((model.version_path(2) / "evaluation.json").read_text())["verdict"]
    assert recorded["opponent"] is None
    assert recorded["refused_by_the_fleet"] == {"1": "quarantined by a: canary off"}


@pytest.mark.slow
def test_a_stopped_run_goes_on_to_the_same_weights(tmp_path: Path, tiny_run: list[str]) -> None:
    def command(work: str) -> list[str]:
        folders = ["--models", str(tmp_path / work / "models"), "--work-dir", str(tmp_path / work), "--name", "poems"]
        steps = ["--set", "training.arguments.max_steps=200"]
        return [sys.executable, "-m", "rhapsode_trainer", "run", "quickstart", *folders, *tiny_run, *steps]

    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}
    stopped = subprocess.Popen(command("stopped"), stdout=subprocess.PIPE, text=True, env=environment)
    assert stopped.stdout is not None
    assert any(line.startswith("train 40/200") for line in stopped.stdout)
    stopped.send_signal(signal.SIGTERM)
    stopped.communicate(timeout=60)
    assert stopped.returncode == 75
    assert list((tmp_path / "stopped" / "poems" / "checkpoints").glob("checkpoint-*"))
    again = subprocess.run(command("stopped"), capture_output=True, text=True, env=environment, check=True)
    assert "train 1/200" not in again.stdout
    subprocess.run(command("straight"), capture_output=True, env=environment, check=True)
    weights = [tmp_path / work / "models" / "poems" / "1" / "model.safetensors" for work in ("stopped", "straight")]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert not list((tmp_path / "stopped" / "poems" / "checkpoints").glob("checkpoint-*")), "done with"


def test_max_minutes_leaves_time_to_publish(run: Callable[..., Any], model: Any) -> None:
    short = run("--max-minutes", "0.1")
    assert short.code == 2
    assert short.err.startswith("rhapsode-train: --max-minutes: evaluation and publishing alone take about")
    assert run("--max-minutes", "5").code == 0
    assert model.versions() == [1]


def test_an_adapter_is_merged_and_kept_beside(run: Callable[..., Any], model: Any, tmp_path: Path) -> None:
    adapter = "lora={r: 2, alpha: 4, dropout: 0.0, target_modules: auto}"
    assert run(f"--set={adapter}", "--set=training.optimizer=trainer").code == 0
    names = {path.name for path in model.version_path(1).iterdir()}
    assert "model.safetensors" in names
    assert not {name for name in names if name.startswith("adapter")}
    assert (tmp_path / "work" / "poems" / "adapter" / "adapter_model.safetensors").is_file()


def test_versions_can_be_looked_at_compared_and_moved(
    run: Callable[..., Any], cli: Callable[..., Any], model: Any, tmp_path: Path
) -> None:
    models = ["--models", tmp_path / "models"]
    assert run().code == 0
    assert run("--set=seed=1", "--set=training.arguments.max_steps=8").code == 0
    shown = cli("compare", "poems", "1", "2", *models)
    assert shown.code == 0
    assert "version 2 minus version 1:" in shown.out
    assert "training.arguments.max_steps" in shown.out
    assert cli("rollback", "poems", *models, "--reason", "a test").code == 0
    assert model.aliases() == {"champion": 1, "previous": 2}
    assert cli("promote", "poems", "2", *models).code == 0
    assert model.aliases()["champion"] == 2
    measured = cli("evaluate", model.version_path(2))
    recorded = json.loads((model.version_path(2) / "evaluation.json").read_text())["after"]["bits_per_byte"]
    assert f"{recorded:.6f}" in measured.out
    assert measured.out.count(f"{recorded:.6f}") == 2, "the number, and the one on record"
    assert cli("push", f"file://{tmp_path / 'remote'}", "--name", "poems", *models).code == 0
    pulled = cli("pull", f"file://{tmp_path / 'remote'}", "--name", "poems", "--models", tmp_path / "other")
    assert pulled.code == 0
    assert ModelDirectory(tmp_path / "other").model("poems").aliases() == model.aliases()
    sheet = cli("rate", "export", "poems", "1", "2", *models, "--out", tmp_path / "sheet")
    assert sheet.code == 0
    assert (tmp_path / "sheet" / "sheet.html").is_file()
    assert cli("gc", "poems", "--keep", "1", *models).code == 0


def test_a_version_can_be_reproduced(
    run: Callable[..., Any], cli: Callable[..., Any], model: Any, tmp_path: Path
) -> None:
    assert run("--set=training.arguments.logging_steps=1").code == 0
    again = cli("reproduce", model.version_path(1), "--work-dir", tmp_path / "again")
    assert (again.code, again.err) == (0, "")
    assert "same loss curve: 4 steps, largest difference 0" in again.out
    assert model.versions() == [1]
    log = model.version_path(1) / "training_log.jsonl"
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    entries[2]["loss"] += 0.25
    log.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    other = cli("reproduce", model.version_path(1), "--work-dir", tmp_path / "again")
    assert other.code == 1
    assert "another loss curve: 0.25 nats per token apart at step 3" in other.out


@pytest.mark.slow
def test_a_sweep_searches_and_trains_the_winner(
    run: Callable[..., Any], cli: Callable[..., Any], tmp_path: Path, tiny_run: list[str], model: Any
) -> None:
    space = "search={training.arguments.learning_rate: {low: 0.0001, high: 0.01, log: true}}"
    folders = ["--models", tmp_path / "models", "--work-dir", tmp_path / "work", "--name", "poems"]
    outcome = cli(
        "sweep", "quickstart", *folders, *tiny_run, "--trials", "3", "--set=data.validation=0.1", f"--set={space}"
    )
    assert (outcome.code, outcome.err) == (0, "")
    assert [f"trial {number}:" in outcome.out for number in (1, 2, 3)] == [True] * 3
    lineage = json.loads((model.version_path(1) / "lineage.json").read_text())
    assert 0.0001 <= lineage["config"]["training"]["arguments"]["learning_rate"] <= 0.01
    without = cli("sweep", "quickstart", *folders, *tiny_run)
    assert without.code == 2
    assert (
        without.err
        == "rhapsode-train: search: a sweep needs the fields to search and validation documents in the recipe\n"
    )


def test_progress_for_programs(run: Callable[..., Any], tmp_path: Path) -> None:
    outcome = run("--log-format", "json", "--textfile", tmp_path / "train.prom")
    assert outcome.code == 0
    events = [json.loads(line) for line in outcome.out.splitlines()]
    phases = list(dict.fromkeys(event["phase"] for event in events))
    assert phases[-1] == "published"
    assert {"prepare", "tokenise", "train", "publish"} <= set(phases)
    assert 'rhapsode_train_phase{phase="published"} 1' in (tmp_path / "train.prom").read_text()


@pytest.mark.slow
def test_two_processes_train_one_version(tmp_path: Path, tiny_run: list[str]) -> None:
    """`accelerate launch` starts several processes on a CPU only if it takes them for GPUs."""
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes=2"]
    launcher += ["--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no", "--main_process_port=0"]
    folders = ["--models", str(tmp_path / "models"), "--work-dir", str(tmp_path / "work"), "--name", "poems"]
    command = [*launcher, "-m", "rhapsode_trainer", "run", "quickstart", *folders, *tiny_run]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("Published: ") == 1
    model = ModelDirectory(tmp_path / "models").model("poems")
    assert model.aliases() == {"champion": 1}
    verify_version(model.version_path(1))
    again = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr[-3000:]
    assert again.stdout.count("nothing new: version 1") == 1
    assert model.versions() == [1]
