import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rhapsode_trainer.errors import ConfigError
from rhapsode_trainer.lora import LoraSettings, attach, merge, save_adapter
from safetensors import safe_open
from transformers import AutoModelForCausalLM

Make = Callable[..., Any]
SETTINGS = LoraSettings(r=3, alpha=6.0, dropout=0.1, target_modules="auto")
IDS = torch.arange(24).reshape(2, 12)


@pytest.fixture(params=["gpt2", "llama"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def settings(**changes: Any) -> LoraSettings:
    return LoraSettings(**{"r": 3, "alpha": 6.0, "dropout": 0.1, "target_modules": "auto", **changes})


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    return model.eval()(input_ids=IDS).logits


def train(adapted: Any, steps: int = 3) -> Any:
    adapted.train()
    optimizer = torch.optim.AdamW((p for p in adapted.parameters() if p.requires_grad), lr=0.05)
    for _ in range(steps):
        optimizer.zero_grad()
        adapted(input_ids=IDS, labels=IDS).loss.backward()
        optimizer.step()
    return adapted.eval()


def test_the_merged_model_equals_the_adapted_one(make_model: Make, kind: str) -> None:
    model = make_model(kind)
    before = logits(model)
    adapted = attach(model, SETTINGS)
    torch.testing.assert_close(logits(adapted), before)
    expected = logits(train(adapted))
    assert (expected - before).abs().max() > 0.1
    merged = merge(adapted)
    assert merged is model
    torch.testing.assert_close(logits(merged), expected, rtol=1e-4, atol=1e-4)


def test_the_merged_model_is_saved_as_an_ordinary_one(make_model: Make, kind: str, tmp_path: Path) -> None:
    names = set(make_model(kind).state_dict())
    merged = merge(train(attach(make_model(kind), SETTINGS)))
    assert set(merged.state_dict()) == names
    assert all(parameter.requires_grad for parameter in merged.parameters())
    merged.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "generation_config.json", "model.safetensors"}
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(loaded) is type(make_model(kind))
    torch.testing.assert_close(logits(loaded), logits(merged), rtol=0, atol=0)


@pytest.mark.parametrize("tied", [True, False])
def test_embeddings_are_neither_adapted_nor_changed(make_model: Make, kind: str, tied: bool) -> None:
    model = make_model(kind)
    model.config.tie_word_embeddings = tied
    output = model.get_output_embeddings()
    output.weight = model.get_input_embeddings().weight if tied else torch.nn.Parameter(output.weight.clone())
    before = [end.weight.clone() for end in (model.get_input_embeddings(), output)]
    merged = merge(train(attach(model, SETTINGS)))
    ends = (merged.get_input_embeddings(), merged.get_output_embeddings())
    assert (ends[0].weight is ends[1].weight) is tied
    assert all(torch.equal(end.weight, old) for end, old in zip(ends, before, strict=True))


def test_all_inner_linear_modules_are_adapted_and_nothing_else_learns(make_model: Make) -> None:
    adapted = attach(make_model("gpt2"), SETTINGS)
    trained = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    assert len(trained) == 2 * 2 * 4  # two factors in two layers, in c_attn, c_fc and twice c_proj
    assert all("lora_" in name for name in trained)


def test_named_modules_alone_are_adapted(make_model: Make) -> None:
    adapted = attach(make_model("llama"), settings(target_modules="q_proj, v_proj"))
    trained = {name.split(".")[-4] for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    assert trained == {"q_proj", "v_proj"}


def test_the_seed_decides_the_factors(make_model: Make) -> None:
    def trained(seed: int) -> torch.Tensor:
        model = make_model("gpt2")
        torch.manual_seed(seed)
        return logits(train(attach(model, settings(dropout=0.0))))

    assert torch.equal(trained(1), trained(1))
    assert not torch.equal(trained(1), trained(2))


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")
def test_the_adapter_is_saved_alone(make_model: Make, kind: str, tmp_path: Path) -> None:
    from peft import PeftModel

    adapted = train(attach(make_model(kind), SETTINGS))
    save_adapter(adapted, tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".md", ".safetensors"}
    with safe_open(tmp_path / "adapter_model.safetensors", "pt") as file:
        assert all("lora_" in name for name in file.keys())  # noqa: SIM118 - not a mapping
    again = PeftModel.from_pretrained(make_model(kind), tmp_path)
    torch.testing.assert_close(logits(again), logits(adapted))


@pytest.mark.parametrize(
    ("names", "complaint"),
    [
        ("c_attn,q_proj", "the model has no 'q_proj'; it has: c_attn, c_fc, c_proj, lm_head"),
        ("lm_head", "'lm_head' is an embedding or the output layer"),
        ("wte", r"'transformer\.wte' is not a linear module, but Embedding"),
        ("attn", "is not a linear module, but GPT2Attention"),
    ],
)
def test_a_module_that_cannot_be_adapted_is_named(make_model: Make, names: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=rf"lora\.target_modules: .*{complaint}"):
        attach(make_model("gpt2"), settings(target_modules=names))


@pytest.mark.parametrize(
    ("field", "value"),
    [("r", 0), ("alpha", 0.0), ("alpha", float("nan")), ("dropout", 1.0), ("target_modules", "c_attn,,c_fc")],
)
def test_a_bad_setting_is_named(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"^{field}: "):
        settings(**{field: value})


def test_a_missing_library_is_named(make_model: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ConfigError, match=r"pip install 'rhapsode-trainer\[lora\]'"):
        attach(make_model("gpt2"), SETTINGS)
