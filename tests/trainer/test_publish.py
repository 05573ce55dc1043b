import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rhapsode_contract.model_directory import Lease, ModelDirectory, verify_version
from rhapsode_trainer.data.tokenizer import train_tokenizer
from rhapsode_trainer.errors import LoadCheckError
from rhapsode_trainer.publish import load_check
from rhapsode_trainer.publish.canary import record_canary, score
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, processors

FILES = {
    "MANIFEST.json",
    "README.md",
    "canary.json",
    "config.json",
    "evaluation.json",
    "generation_config.json",
    "lineage.json",
    "model.safetensors",
    "postprocess.json",
    "samples.jsonl",
    "tokenizer.json",
    "tokenizer_config.json",
}
TEXTS = ["the quick brown fox jumps over the lazy dog"] * 9


@pytest.fixture
def source(make_model: Callable[..., Any], tmp_path: Path) -> Callable[..., Path]:
    """Saves a tiny model with a tokenizer, as somebody else would have done."""

    def save(kind: str = "gpt2", dtype: torch.dtype = torch.float32) -> Path:
        folder = tmp_path / f"source-{kind}"
        tokenizer = train_tokenizer(TEXTS, 280)
        make_model(kind, vocab_size=len(tokenizer), context=64).to(dtype).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return save


def published(tmp_path: Path) -> Path:
    return tmp_path / "models" / "copy" / "1"


def publish(cli: Callable[..., Any], folder: Path, tmp_path: Path, name: str = "copy") -> Any:
    return cli("publish", folder, "--name", name, "--models", tmp_path / "models")


def test_a_llama_folder_becomes_a_verified_version_and_loads_in_a_fresh_process(
    cli: Callable[..., Any], source: Callable[..., Path], tmp_path: Path
) -> None:
    folder = source("llama", torch.bfloat16)
    outcome = publish(cli, folder, tmp_path)
    assert (outcome.code, outcome.err) == (0, "")
    version = published(tmp_path)
    manifest = verify_version(version)
    assert {path.name for path in version.iterdir()} == FILES
    assert manifest.dtype == "bfloat16", "the stored dtype is kept"
    kept, given = load_file(version / "model.safetensors"), load_file(folder / "model.safetensors")
    assert kept.keys() == given.keys()
    assert all(torch.equal(kept[name], given[name]) for name in given)
    assert json.loads((version / "evaluation.json").read_text())["measured"] is False
    assert json.loads((version / "lineage.json").read_text())["parent_version"] is None
    assert json.loads((version / "postprocess.json").read_text()) == {"schema_version": 1, "steps": []}
    assert ModelDirectory(tmp_path / "models").model("copy").aliases() == {"champion": 1}


@pytest.mark.usefixtures("check_here")
def test_a_gpt2_folder_becomes_the_next_version_with_its_parent(
    cli: Callable[..., Any], source: Callable[..., Path], tmp_path: Path
) -> None:
    folder = source("gpt2")
    for expected in (1, 2):
        outcome = publish(cli, folder, tmp_path)
        assert outcome.code == 0
        assert f"copy/{expected}, loaded back and verified\n" in outcome.out
    version = published(tmp_path).with_name("2")
    manifest = verify_version(version)
    config = json.loads((version / "config.json").read_text())
    assert config["use_cache"] is True
    assert manifest.parameter_count == sum(
        weight.numel() for weight in load_file(version / "model.safetensors").values()
    )
    assert json.loads((version / "lineage.json").read_text())["parent_version"] == 1
    assert all(path.stat().st_mode & 0o044 == 0o044 for path in version.iterdir()), "a server is another user"
    canary = json.loads((version / "canary.json").read_text())
    assert len(canary["prompt_ids"]) == 16
    assert len(canary["continuation_ids"]) == len(canary["logprobs"]) == len(canary["margins"]) == 32
    file = version / "tokenizer.json"
    assert canary["tokenizer"]["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    tokenizer = Tokenizer.from_file(str(file))
    assert len(canary["tokenizer"]["probes"]) >= 8
    for probe in canary["tokenizer"]["probes"]:
        assert probe["ids"] == tokenizer.encode(probe["text"], add_special_tokens=False).ids


def test_the_canary_is_greedy_and_scored_token_by_token(make_model: Callable[..., Any]) -> None:
    model = make_model("llama", context=64)
    canary = record_canary(model, list(range(1, 30)))
    assert canary.prompt_ids == list(range(1, 17))
    ids = list(canary.prompt_ids)
    for token, logprob, margin in zip(canary.continuation_ids, canary.logprobs, canary.margins, strict=True):
        with torch.no_grad():
            logprobs = model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)
        best = logprobs.topk(2).values
        assert token == logprobs.argmax()
        assert logprob == pytest.approx(logprobs[token].item(), abs=1e-5)
        assert margin == pytest.approx((best[0] - best[1]).item(), abs=1e-5)
        ids.append(token)
    assert score(model, canary.prompt_ids, canary.continuation_ids) == (canary.logprobs, canary.margins)


def test_the_canary_fits_a_short_context(make_model: Callable[..., Any]) -> None:
    canary = record_canary(make_model("gpt2", context=12), list(range(1, 30)))
    assert (len(canary.prompt_ids), len(canary.continuation_ids)) == (6, 6)


@pytest.fixture
def version(cli: Callable[..., Any], source: Callable[..., Path], tmp_path: Path, check_here: None) -> Path:
    assert publish(cli, source("gpt2"), tmp_path).code == 0
    return published(tmp_path)


def spoil_weights(version: Path) -> None:
    weights = load_file(version / "model.safetensors")
    weights["transformer.h.0.mlp.c_fc.bias"][0] = float("nan")
    save_file(weights, version / "model.safetensors", metadata={"format": "pt"})


def shuffle_layers(version: Path) -> None:
    weights = load_file(version / "model.safetensors")
    swap = {"transformer.h.0.": "transformer.h.1.", "transformer.h.1.": "transformer.h.0."}
    moved = {swap.get(name[:16], name[:16]) + name[16:]: weight for name, weight in weights.items()}
    save_file(moved, version / "model.safetensors", metadata={"format": "pt"})


def drop_weights(version: Path) -> None:
    weights = load_file(version / "model.safetensors")
    del weights["transformer.ln_f.weight"]
    save_file(weights, version / "model.safetensors", metadata={"format": "pt"})


def strip_in_tokenizer_json(version: Path) -> None:
    tokenizer = Tokenizer.from_file(str(version / "tokenizer.json"))
    tokenizer.enable_truncation(2)
    tokenizer.save(str(version / "tokenizer.json"))


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (spoil_weights, "c_fc.bias is not finite"),
        (shuffle_layers, "the canary differs"),
        (drop_weights, "weights are missing: transformer.ln_f.weight"),
        (strip_in_tokenizer_json, "AutoTokenizer adds or strips"),
    ],
)
def test_the_load_check_refuses_what_is_not_the_model(
    version: Path, damage: Callable[[Path], None], complaint: str
) -> None:
    load_check.check(version)
    damage(version)
    with pytest.raises((LoadCheckError, ValueError), match=complaint):
        load_check.check(version)


def test_a_version_that_does_not_load_back_is_not_promoted(
    cli: Callable[..., Any], source: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(version: Path) -> None:
        raise LoadCheckError("the canary differs")

    monkeypatch.setattr("rhapsode_trainer.publish.version.check_in_fresh_process", refuse)
    outcome = publish(cli, source("gpt2"), tmp_path)
    assert (outcome.code, outcome.err) == (1, "rhapsode-train: the canary differs\n")
    assert ModelDirectory(tmp_path / "models").model("copy").aliases() == {}


def without(*names: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return spoil


def only_pickles(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def other_architecture(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": ["GPT2Model"]}))


def remote_code(folder: Path) -> None:
    config = {"model_type": "mine", "architectures": ["Mine"], "auto_map": {"AutoConfig": "mine.MyConfig"}}
    (folder / "config.json").write_text(json.dumps(config))


def larger_tokenizer(folder: Path) -> None:
    train_tokenizer([f"word{number} " * 9 for number in range(99)], 400).save_pretrained(folder)


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (without("config.json"), "no config.json"),
        (without("tokenizer.json", "tokenizer_config.json"), "no tokenizer"),
        (without("model.safetensors"), "no weights"),
        (only_pickles, "pickles (pytorch_model.bin)"),
        (other_architecture, "not a causal language model"),
        (remote_code, "config.json: "),
        (drop_weights, "weights are missing"),
        (larger_tokenizer, "the model embeds only"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"junk"), "cannot be read"),
    ],
)
def test_a_folder_that_cannot_be_published_is_refused_by_name(
    cli: Callable[..., Any], source: Callable[..., Path], tmp_path: Path, spoil: Callable[[Path], None], complaint: str
) -> None:
    folder = source("gpt2")
    spoil(folder)
    outcome = publish(cli, folder, tmp_path)
    assert outcome.code == 2
    assert outcome.err.startswith(f"rhapsode-train: {folder}")
    assert complaint in outcome.err
    assert outcome.err.count("\n") == 1, "one line, no traceback"
    assert ModelDirectory(tmp_path / "models").model("copy").versions() == []


def test_whoever_finds_the_lease_taken_publishes_nothing_and_says_so(
    cli: Callable[..., Any], source: Callable[..., Path], tmp_path: Path
) -> None:
    folder = ModelDirectory(tmp_path / "models").model("copy")
    with Lease.acquire(folder, owner="the other one", ttl=3):
        outcome = publish(cli, source("gpt2"), tmp_path)
        run = cli("run", "quickstart", "--models", tmp_path / "models", "--name", "copy", "--work-dir", tmp_path)
    assert outcome.code == 75
    assert "not published: copy is being published by the other one" in outcome.err
    assert run.code == 0
    assert run.out.startswith("skipped: copy is being published by the other one")
    assert folder.versions() == []


def test_a_post_processor_that_only_adds_special_tokens_is_accepted(
    cli: Callable[..., Any], source: Callable[..., Path], tmp_path: Path, check_here: None
) -> None:
    folder = source("gpt2")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    assert publish(cli, folder, tmp_path).code == 0
