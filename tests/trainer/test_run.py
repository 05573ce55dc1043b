import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rhapsode_contract.model_directory import ModelDirectory, verify_version
from rhapsode_trainer.publish import load_check


def arguments(tmp_path: Path, tiny_run: list[str]) -> list[str]:
    folders = ["--models", str(tmp_path / "models"), "--work-dir", str(tmp_path / "work")]
    return ["run", "quickstart", "--name", "poems", *folders, *tiny_run]


@pytest.mark.usefixtures("check_here")
def test_a_run_publishes_a_version_that_explains_itself(
    cli: Callable[..., Any], tmp_path: Path, tiny_run: list[str]
) -> None:
    outcome = cli(*arguments(tmp_path, tiny_run))
    assert (outcome.code, outcome.err) == (0, "")
    version = tmp_path / "models" / "poems" / "1"
    verify_version(version)
    load_check.check(version)
    names = {path.name for path in version.iterdir()}
    assert {"model.safetensors", "tokenizer.json", "canary.json", "README.md"} <= names
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pth", ".pkl"))]
    assert json.loads((version / "config.json").read_text())["use_cache"] is True
    assert json.loads((version / "generation_config.json").read_text())["do_sample"] is True
    _check_evaluation(json.loads((version / "evaluation.json").read_text()))
    _check_lineage(json.loads((version / "lineage.json").read_text()))
    samples = [json.loads(line) for line in (version / "samples.jsonl").read_text().splitlines()]
    assert [sample["stage"] for sample in samples] == ["before", "after"]
    assert samples[0]["prompt"] == samples[1]["prompt"]
    assert samples[0]["seed"] == samples[1]["seed"]
    assert {"report.html", "training_log.jsonl", "likelihoods.json"} <= names
    status = json.loads((tmp_path / "work" / "poems" / "status.json").read_text())
    assert (status["phase"], status["step"]) == ("published", 4)
    _check_screen(outcome.out, tmp_path)


def _check_evaluation(evaluation: dict[str, Any]) -> None:
    before, after = evaluation["before"], evaluation["after"]
    assert after["bits_per_byte"] < before["bits_per_byte"]
    assert after["bits_per_byte"] == pytest.approx(after["nats"] / math.log(2) / after["bytes"])
    assert before["tokens"] == after["tokens"]
    assert before["bytes"] == evaluation["data"]["held_out_bytes"]
    assert 2.7 < evaluation["xz_bits_per_byte"] < 3.0


def _check_lineage(lineage: dict[str, Any]) -> None:
    assert lineage["recipe"] == "quickstart"
    assert lineage["config"]["training"]["arguments"]["max_steps"] == 4
    assert sum(lineage["data"]["documents"].values()) == 709
    assert {"torch", "transformers", "rhapsode-trainer"} <= lineage["packages"].keys()
    training = lineage["training"]
    assert (training["steps"], training["loss"], training["attention"]) == (4, "chunked", "sdpa")
    assert training["tokens_per_second"] > 0
    assert 0 <= training["padding_share"] < 0.05
    assert {"prepare", "tokenise", "evaluate before", "train", "evaluate after"} <= training["seconds"].keys()
    assert training["mfu"] is None, "there is no peak of a CPU"


def _check_screen(out: str, tmp_path: Path) -> None:
    assert "\x1b" not in out, "no control characters where there is no terminal"
    assert "\r" not in out
    for part in ("train 4/4 (100%)", "bits per byte", "perplexity per token", "xz -9e", "before training", "eta"):
        assert part in out
    assert f"Published: {tmp_path}/models/poems/1, loaded back and verified\n" in out
    assert f"rhapsode-serve --models {tmp_path}/models\n" in out


@pytest.mark.slow
def test_a_signal_while_training_publishes_nothing(tmp_path: Path, tiny_run: list[str]) -> None:
    command = [sys.executable, "-m", "rhapsode_trainer", *arguments(tmp_path, tiny_run)]
    command += ["--set", "training.arguments.max_steps=3000"]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"},
    )
    assert process.stdout is not None
    assert any(line.startswith("train ") for line in process.stdout)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 75
    assert err.startswith("rhapsode-train: stopped by SIGTERM: nothing was published. The next run starts from the")
    assert err.count("\n") == 1
    folder = ModelDirectory(tmp_path / "models").model("poems")
    assert (folder.versions(), folder.aliases()) == ([], {})


def test_a_recipe_that_cannot_be_trained_is_refused_before_training(
    cli: Callable[..., Any], tmp_path: Path, tiny_run: list[str]
) -> None:
    outcome = cli(*arguments(tmp_path, tiny_run), "--set", "rows.block_size=65")
    assert outcome.code == 2
    assert outcome.err == "rhapsode-train: rows.block_size: 65 is more than the model's context of 64\n"


def test_a_model_that_diverged_is_never_published(cli: Callable[..., Any], tmp_path: Path, tiny_run: list[str]) -> None:
    wild = ["training.arguments.learning_rate=1e30", "training.arguments.max_grad_norm=0", "training.optimizer=trainer"]
    outcome = cli(*arguments(tmp_path, tiny_run), *[f"--set={override}" for override in wild])
    assert outcome.code == 4
    assert outcome.err.startswith("rhapsode-train: training diverged")
    assert ModelDirectory(tmp_path / "models").model("poems").versions() == []
