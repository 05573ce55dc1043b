"""What the canary compares, what it says, and files that are none."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rhapsode_server.engine import canary as comparing
from rhapsode_server.engine import loading
from rhapsode_server.engine.build import build_engine
from rhapsode_server.engine.canary import BOUNDS, compare_weights, replay
from rhapsode_server.engine.canary_file import Canary, read_canary
from rhapsode_server.engine.host_memory import Memory
from rhapsode_server.engine.options import EngineOptions
from rhapsode_server.engine.refusal import ModelRefused
from rhapsode_trainer.publish.canary import record_canary
from support.tiny_models import VOCABULARY_SIZE, tiny_model


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    """What the trainer records of the tiny GPT-2."""
    return record_canary(tiny_model("gpt2"), list(range(1, 17))).as_dict()


@pytest.fixture
def version(tmp_path: Path, document: dict[str, Any]) -> Path:
    tiny_model("gpt2").save_pretrained(tmp_path)
    (tmp_path / "canary.json").write_text(json.dumps(document))
    return tmp_path


@pytest.fixture
def canary(version: Path) -> Canary:
    found = read_canary(version)
    assert found
    return found


def build(path: Path, stages: list[str] | None = None, **options: Any) -> Any:
    settings: dict[str, Any] = {"vocabulary_size": VOCABULARY_SIZE, "device": "cpu", "max_sequences": 2, **options}
    return build_engine(EngineOptions(path=str(path), **settings), ([] if stages is None else stages).append)


def test_it_says_what_it_compared_after_warming(version: Path) -> None:
    stages: list[str] = []
    assert pytest.approx(0, abs=1e-5) == float(
        build(version, stages).canary.split("engine in float32 off by ")[1].split()[0]
    )
    assert stages == ["warming", "canary"]


def test_a_version_without_one_is_not_refused(version: Path) -> None:
    (version / "canary.json").unlink()
    assert build(version).canary == "no canary.json: published without one"


@pytest.mark.parametrize("num_tokens", [1, 2, 7, 30, 32])
def test_a_replay_takes_a_continuation_of_any_length(load: Any, canary: Canary, num_tokens: int) -> None:
    shorter = {name: getattr(canary, name)[:num_tokens] for name in ("continuation_ids", "logprobs", "margins")}
    assert replay(replace(canary, **shorter), load("gpt2")) < 1e-5


def test_a_replay_leaves_no_keys_and_values_behind(load: Any, canary: Canary) -> None:
    runner = load("gpt2")
    assert replay(canary, runner) < 1e-5
    assert not runner.kv_cache._extents


def test_a_small_mean_does_not_hide_that_a_clear_token_is_another(load: Any, canary: Canary) -> None:
    ids = [*canary.continuation_ids[:-1], (canary.continuation_ids[-1] + 1) % VOCABULARY_SIZE]
    loaded = load("gpt2").loaded
    with torch.inference_mode():
        logits = loaded.model(input_ids=torch.tensor([canary.fed_ids])).logits[0, 15:]
    logprobs = logits.log_softmax(-1).gather(1, torch.tensor(ids)[:, None])[:, 0].tolist()
    other = replace(canary, continuation_ids=ids, logprobs=logprobs, margins=[1.0] * 32)
    with pytest.raises(ModelRefused, match=r"prefer another token at 1 of 32 clear places"):
        compare_weights(other, loaded)
    assert compare_weights(replace(other, margins=[0.0003] * 32), loaded) < 1e-5, "nobody knows who should have won"


@pytest.mark.parametrize("bound", ["float32", "bfloat16"])
def test_an_engine_that_says_something_else_is_refused(
    version: Path, bound: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine_logits = comparing.engine_logits
    monkeypatch.setattr(comparing, "engine_logits", lambda *parts: engine_logits(*parts).roll(1, 0))
    with pytest.raises(ModelRefused, match=rf"^canary_off: the engine's logits in {bound} differ .* above"):
        build(version, dtype=bound)


def test_logits_that_are_not_finite_are_named(load: Any, canary: Canary) -> None:
    runner = load("gpt2")
    with torch.no_grad():
        runner.loaded.model.transformer.wpe.weight[40] = torch.nan  # beyond what the proof looks at
    with pytest.raises(ModelRefused, match=r"^non_finite_logits: the weights in float32"):
        compare_weights(canary, runner.loaded)
    with pytest.raises(ModelRefused, match=r"^non_finite_logits: the engine's logits in float32"):
        replay(canary, runner)


def test_a_model_that_does_not_fit_the_host_in_float32_is_compared_as_it_serves(
    version: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "host_memory", lambda: Memory(total=2**30, free=1000))
    assert build(version, dtype="float16").canary.startswith("weights not compared in float32: that needs ")
    monkeypatch.setattr(loading, "host_memory", lambda: Memory(total=2**30, free=2**30))
    assert build(version, dtype="float16").canary.startswith("weights in float32 off by ")


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"schema_version": 2}, "schema_version is 2, not 1"),
        ({"prompt_ids": []}, "prompt_ids is empty"),
        ({"prompt_ids": [1, -1]}, "prompt_ids is no list of ids"),
        ({"continuation_ids": [1.5]}, "continuation_ids is no list of ids"),
        ({"logprobs": [-1.0]}, "logprobs has 1 numbers for 32 tokens"),
        ({"logprobs": ["x"] * 32}, "logprobs is no list of finite numbers"),
        ({"margins": None}, "margins is no list of finite numbers"),
        ({"margins": [float("nan")] * 32}, "margins is no list of finite numbers"),
        ({"tokenizer": 3}, "tokenizer is not an object"),
        ({"tokenizer": {"sha256": ""}}, "probes is missing"),
        ({"tokenizer": {"sha256": "", "probes": [3]}}, "probes are no objects"),
        ({"tokenizer": {"sha256": "", "probes": [{"text": "a", "ids": ["b"]}]}}, "tokenizer.probes is no list of ids"),
        ({"prompt_ids": [320] * 16}, "holds the token id 320, the model has 320"),
        ({"prompt_ids": [1] * 1000}, "holds 1031 tokens, the model's context 1024"),
    ],
)
def test_a_canary_that_is_none_is_refused_by_its_field(
    version: Path, document: dict[str, Any], fields: dict[str, Any], complaint: str
) -> None:
    (version / "canary.json").write_text(json.dumps(document | fields))
    with pytest.raises(ModelRefused, match=rf"^canary_off: canary.json:? {complaint}"):
        build(version)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "Expecting value"),
        (b"\xff", "'utf-8' codec"),
        (b"[]", "the document is not"),
        (b"{}", "schema_version is missing"),
    ],
)
def test_a_file_that_is_no_canary_is_refused(tmp_path: Path, content: bytes, complaint: str) -> None:
    (tmp_path / "canary.json").write_bytes(content)
    with pytest.raises(ModelRefused, match=rf"^canary_off: canary.json: {complaint}"):
        read_canary(tmp_path)


def test_what_the_trainer_records_is_what_is_read(canary: Canary, document: dict[str, Any]) -> None:
    assert {"schema_version": 1, **asdict(canary)} == document


def test_every_dtype_has_its_bound() -> None:
    assert BOUNDS.keys() == {"float32", "float16", "bfloat16", "int8"}
