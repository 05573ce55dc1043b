"""Each recipe on small data in its real format, from the file to the published version."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rhapsode_client import Client
from rhapsode_contract.model_directory import ModelDirectory, verify_version
from rhapsode_trainer.data.tokenizer import train_tokenizer
from support.servers import running_server

WORDS = ("sea", "star", "garden", "river", "lantern", "winter", "harbour", "song")
SMALL = [
    "--set=rows.block_size=32",
    "--set=evaluation.stride=32",
    "--set=evaluation.batch_size=16",
    "--set=sample.max_new_tokens=12",
    "--set=training.arguments.per_device_train_batch_size=8",
    "--set=training.arguments.learning_rate=0.003",
    "--set=training.arguments.logging_steps=2",
    "--set=gate.max_repetition=1",
    "--set=gate.max_empty=1",
    "--set=gate.min_words=0",
    "--set=gate.tolerance=0.5",
]


def story(number: int) -> str:
    first, second = WORDS[number % 8], WORDS[number // 8 % 8]
    return f"Once the {first} sang to the {second}, and number {number} listened until the {second} was still."


def write_pairs(folder: Path, name: str, numbers: range) -> Path:
    prompts = [f"[ WP ] Tell of the {WORDS[number % 8]} {number} ." for number in numbers]
    stories = [story(number).replace(",", ", <newline>") for number in numbers]
    (folder / f"{name}.wp_source").write_text("\n".join(prompts) + "\n")
    (folder / f"{name}.wp_target").write_text("\n".join(stories) + "\n")
    return folder / f"{name}.wp_source"


def writing_prompts(folder: Path) -> list[str]:
    sources = {
        "sources": write_pairs(folder, "train", range(60)),
        "validation_sources": write_pairs(folder, "valid", range(60, 70)),
        "held_out_sources": write_pairs(folder, "test", range(70, 84)),
    }
    return [f"--set=data.{name}.0.path={path}" for name, path in sources.items()]


def text_files(folder: Path) -> list[str]:
    texts = folder / "texts"
    texts.mkdir()
    for number in range(60):
        (texts / f"{number:03}.txt").write_text("\n".join(story(number + other) for other in range(5)))
    return [f"--set=data.sources.0.path={texts}", "--set=training.epochs=2"]


def wikitext(folder: Path) -> list[str]:
    arguments = []
    for part, name, count in (("", "train", 40), ("validation_", "valid", 8), ("held_out_", "test", 8)):
        articles = [
            f" \n = Article {name} {number} = \n \n {story(number)} \n {story(number + 3)} \n"
            for number in range(count)
        ]
        path = folder / f"wiki.{name}.raw"
        path.write_text("".join(articles))
        arguments.append(f"--set=data.{part}sources.0.path={path}")
    return arguments


def poetry(folder: Path) -> list[str]:
    path = folder / "PoetryFoundationData.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["", "Title", "Poem", "Poet", "Tags"])
        for number in range(80):
            poem = "\r\r\n".join(f"{story(number + line)}  " for line in range(3))
            writer.writerow([number, f"Poem {number}", poem, "Anonymous", ""])
    return [f"--set=data.sources.0.path={path}", "--set=training.epochs=2"]


def stories(folder: Path) -> list[str]:
    path = folder / "stories.jsonl"
    rows = [{"prompt": f"About the {WORDS[number % 8]}:", "story": story(number)} for number in range(90)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [f"--set=data.sources.0.path={path}", "--set=training.epochs=2", "--set=sample.held_out_prompts=4"]


DATA: dict[str, Callable[[Path], list[str]]] = {
    "writing-prompts": writing_prompts,
    "text-files": text_files,
    "wikitext": wikitext,
    "poetry": poetry,
    "stories": stories,
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny GPT-2 with a tokenizer of its own, as it would come from the hub."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    folder = tmp_path_factory.mktemp("base")
    tokenizer = train_tokenizer([story(number) for number in range(64)], 320)
    torch.manual_seed(0)
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64}
    GPT2LMHeadModel(GPT2Config(vocab_size=320, bos_token_id=0, eos_token_id=0, **sizes)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture
def publish(cli: Callable[..., Any], models: Path, base: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Runs a recipe unless it was run before, and returns the version."""

    def run(recipe: str) -> Path:
        folder = ModelDirectory(models).model(recipe)
        if not folder.versions():
            command = ["run", recipe, "--models", models, "--work-dir", tmp_path / "work", "--name", recipe]
            outcome = cli(*command, f"--set=base.model={base}", *SMALL, *DATA[recipe](tmp_path))
            assert (outcome.code, outcome.err) == (0, "")
        return folder.version_path(1)

    return run


@pytest.mark.usefixtures("check_here")
@pytest.mark.parametrize("recipe", DATA)
def test_a_recipe_trains_and_publishes(publish: Callable[[str], Path], recipe: str) -> None:
    version = publish(recipe)
    verify_version(version)
    evaluation = json.loads((version / "evaluation.json").read_text())
    assert evaluation["after"]["bits_per_byte"] < evaluation["before"]["bits_per_byte"] - 0.05
    assert evaluation["verdict"]["accepted"]
    assert json.loads((version / "config.json").read_text())["vocab_size"] == 320, "no padding token is published"
    log = [json.loads(line) for line in (version / "training_log.jsonl").read_text().splitlines()]
    assert any("validation_loss" in entry for entry in log)
    assert (version / "report.html").read_text().startswith("<!")
    if recipe == "stories":
        assert evaluation["after"]["overlap"]["chrf"] > 0
    if recipe in ("writing-prompts", "stories"):
        assert json.loads((version / "postprocess.json").read_text())["steps"]


@pytest.mark.slow
@pytest.mark.usefixtures("check_here")
def test_the_server_serves_what_the_recipes_made(publish: Callable[[str], Path], models: Path) -> None:
    for recipe in DATA:
        publish(recipe)
    flags = ("--threads", "1", "--standby", "off")
    with running_server(models, *flags) as server, Client(server.address, timeout=60) as client:
        for recipe in DATA:
            server.wait_serving(f"model/{recipe}")
            completion = client.generate("Once the sea", model=recipe, seed=1, max_new_tokens=8)
            assert completion.usage.completion_tokens >= 1
            assert completion.sampling.top_k == 0
