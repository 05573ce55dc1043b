import csv
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rhapsode_contract.model_directory import Lease, ModelDirectory
from rhapsode_contract.model_directory import publish as publish_folder
from rhapsode_trainer.data.tokenizer import train_tokenizer


@pytest.fixture
def version(tmp_path: Path) -> Path:
    """A version of nothing in particular; the command line only looks at files."""

    def write(staging: Path) -> None:
        (staging / "config.json").write_text("{}")

    folder = ModelDirectory(tmp_path / "models").model("poems")
    with Lease.acquire(folder, owner="test") as lease:
        number = publish_folder(
            folder, lease, write=write, dtype="float32", parameter_count=12, actor="test", reason="test"
        )
    return folder.version_path(number)


def test_verify_says_what_it_checked(cli: Callable[..., Any], version: Path) -> None:
    outcome = cli("verify", version)
    assert outcome.code == 0
    assert "ok  config.json  sha256 44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a" in outcome.out
    assert "verified: 1 files, 2 bytes, 12 parameters, float32" in outcome.out


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda version: (version / "config.json").write_text("[]"), "config.json: hash_mismatch"),
        (lambda version: (version / "config.json").unlink(), "config.json: missing_file"),
        (lambda version: (version / "extra.json").write_text(""), "extra.json: foreign_file"),
        (lambda version: (version / "MANIFEST.json").unlink(), "MANIFEST.json: missing_manifest"),
    ],
)
def test_verify_names_file_and_reason(
    cli: Callable[..., Any], version: Path, damage: Callable[[Path], object], complaint: str
) -> None:
    damage(version)
    outcome = cli("verify", version)
    assert outcome.code == 1
    assert outcome.err.startswith(f"{version}: {complaint}")
    assert outcome.err.count("\n") == 1


def test_list_shows_versions_and_aliases(cli: Callable[..., Any], version: Path, tmp_path: Path) -> None:
    assert [
        word for word in ("poems", "1", "champion") if word not in cli("list", "--models", tmp_path / "models").out
    ] == []
    assert cli("list", "--models", tmp_path / "none").out == f"no models in {tmp_path / 'none'}\n"


def test_decisions_for_all_servers(cli: Callable[..., Any], version: Path, tmp_path: Path) -> None:
    models = ("--models", tmp_path / "models")
    assert "poems: pinned to version 1" in cli("pin", "poems", 1, "--reason", "hold", *models).out
    assert "split by weight, 1=3" in cli("traffic", "poems", "1=3", *models).out
    assert "all go to the champion, version 1" in cli("traffic", "poems", "--clear", *models).out
    assert "no longer pinned" in cli("unpin", "poems", *models).out
    (tmp_path / "feedback").mkdir()
    collected = cli("gc", "poems", "--keep", 1, "--feedback-dir", tmp_path / "feedback", *models)
    assert (collected.code, collected.out) == (0, "poems: to the trash for 1 day, 0:00:00: none; kept: 1\n")
    for weights in ((), ("1=1", "--clear")):
        outcome = cli("traffic", "poems", *weights, *models)
        assert (outcome.code, outcome.err.count("\n")) == (2, 1)
        assert "give weights such as 12=90 13=10, or --clear" in outcome.err
    outcome = cli("pin", "poems", 7, *models)
    assert (outcome.code, outcome.err) == (1, "rhapsode-train: poems has no version 7; it has 1\n")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["run", "sonnets", "--name", "poems"], "no recipe 'sonnets'; there are: "),
        (["run", "quickstart", "--name", "Poems!"], "--name: model name 'Poems!'"),
        (["run", "quickstart", "--name", "poems", "--set", "data.bogus=1"], "data.bogus: unknown field"),
        (["run", "quickstart", "--name", "poems", "--models", "/dev/null"], "--models: cannot write"),
        (["run", "quickstart", "--name", "poems", "--work-dir", "/dev/null"], "--work-dir: cannot write"),
        (["publish", "/nowhere", "--name", "poems"], "/nowhere: no such folder"),
    ],
)
def test_mistakes_get_one_line_and_exit_code_2(
    cli: Callable[..., Any], arguments: list[str], complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = cli(*arguments)
    assert outcome.code == 2
    assert outcome.err.startswith(f"rhapsode-train: {complaint}")
    assert outcome.err.count("\n") == 1


def test_the_quick_commands_import_nothing_heavy(version: Path, tmp_path: Path) -> None:
    program = (
        "import sys; from rhapsode_trainer.__main__ import main\n"
        "try: main()\n"
        "except SystemExit as stopped: assert not stopped.code, stopped\n"
        "heavy = {'torch', 'transformers', 'datasets', 'tokenizers', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    models = ["--models", str(tmp_path / "models")]
    quick = (
        ["list"],
        ["pin", "poems", "1"],
        ["traffic", "poems", "1=1"],
        ["promote", "poems", "1"],
        ["unpin", "poems"],
    )
    kept = ["gc", "poems", "--keep", "1"]
    for arguments in (["--help"], ["verify", str(version)], *([*command, *models] for command in (*quick, kept))):
        subprocess.run([sys.executable, "-c", program, *arguments], check=True, env=dict(os.environ))


@pytest.mark.usefixtures("check_here")
def test_a_blind_sheet_over_new_prompts_and_its_ratings(
    cli: Callable[..., Any], make_model: Callable[..., Any], tmp_path: Path
) -> None:
    models, source, out, prompts = (tmp_path / name for name in ("models", "source", "sheet", "prompts.txt"))
    make_model("gpt2").save_pretrained(source)
    train_tokenizer(["a summer's day", "the moon and the sea"] * 50, 290).save_pretrained(source)
    for _ in range(2):
        assert cli("publish", source, "--name", "poems", "--models", models).code == 0
    prompts.write_text("a summer's day\nthe moon\n")
    options = ("--prompts", prompts, "--max-new-tokens", 6, "--out", out, "--models", models)
    assert cli("rate", "export", "poems", 1, 2, *options).code == 0
    rows = list(csv.DictReader((out / "sheet.csv").read_text(encoding="utf-8-sig").splitlines()))
    assert [row["prompt"] for row in rows] == ["a summer's day", "the moon"]
    assert all(row["left"] == row["right"] for row in rows), "the same weights, the same seed"
    rated, sheet = out / "rated.csv", rows[0]["sheet"]
    rated.write_text(f"sheet,item,rater,choice\n{sheet},1,ann,left\n{sheet},2,ann,tie\n")
    assert cli("rate", "import", out / "key.json", rated, "--models", models).code == 0
    shown = " ".join(cli("compare", "poems", 1, 2, "--models", models).out.split())
    assert "people preferred version 2 to 1" in shown
