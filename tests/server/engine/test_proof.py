"""The proof at load accepts what runs exactly and refuses everything else."""

from pathlib import Path
from typing import Any

import pytest
import torch
from rhapsode_server.engine import attention, runner
from rhapsode_server.engine.attention import ATTENTION, AttentionOptions
from rhapsode_server.engine.batch import Row
from rhapsode_server.engine.kv_cache import KVCache
from rhapsode_server.engine.loader import load_model
from rhapsode_server.engine.proof import prove
from rhapsode_server.engine.refusal import ModelRefused
from support.tiny_models import tiny_model

SUPPORTED = ["gpt2", "llama", "mistral", "gemma2", "gpt_oss", "qwen2", "qwen3", "phi3", "gpt_neox", "opt", "olmo2"]


@pytest.mark.parametrize("architecture", SUPPORTED)
def test_it_accepts(load: Any, architecture: str) -> None:
    loaded = load(architecture)
    heads, head_dim = (4, 16) if architecture in ("gpt2", "gpt_neox", "opt") else (2, 16)
    layers = 3
    assert prove(loaded) == 2 * heads * head_dim * layers * 4
    assert loaded.loaded.model.config._attn_implementation == ATTENTION


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("architecture", ["gpt2", "llama", "gemma2"])
def test_it_accepts_reduced_types(load: Any, architecture: str, dtype: torch.dtype) -> None:
    assert prove(load(architecture, dtype=dtype)) > 0


@pytest.mark.parametrize("architecture", ["gpt_neo", "bloom", "gptj", "stablelm"])
def test_it_refuses_what_does_not_call_our_attention(load: Any, architecture: str) -> None:
    with pytest.raises(ModelRefused, match=r"^unsupported_architecture: \w+ForCausalLM does not let another attention"):
        prove(load(architecture))


def test_it_refuses_a_model_of_which_a_layer_goes_its_own_way(load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = load("gpt2")
    object.__setattr__(loaded.loaded, "num_layers", 4)
    with pytest.raises(ModelRefused, match="3 of 4 layers use the engine's attention"):
        prove(loaded)


@pytest.mark.parametrize(
    ("architecture", "ignored"), [("mistral", "sliding_window"), ("gemma2", "softcap"), ("gpt_oss", "sinks")]
)
def test_it_refuses_when_an_option_is_ignored(
    load: Any, monkeypatch: pytest.MonkeyPatch, architecture: str, ignored: str
) -> None:
    def without(**options: Any) -> AttentionOptions:
        return AttentionOptions(**options | {ignored: None})

    monkeypatch.setattr(attention, "AttentionOptions", without)
    with pytest.raises(ModelRefused, match="unsupported_architecture: the engine's logits differ"):
        prove(load(architecture))


def test_it_refuses_when_rows_share_their_memory(load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    append = KVCache.append

    def append_to_slot_0(cache: KVCache, layer: int, row: Row, *tensors: torch.Tensor) -> Any:
        return append(cache, layer, row._replace(slot=0, num_reserved_tokens=99), *tensors)

    monkeypatch.setattr(KVCache, "append", append_to_slot_0)
    # Some of what it then reads was never written, and may be anything.
    with pytest.raises(ModelRefused, match=r"differ from the plain forward|not finite"):
        prove(load("llama", attention=runner.RowBatch))


def test_it_refuses_what_is_not_finite(load: Any) -> None:
    model = tiny_model("gpt2")
    model.transformer.h[1].mlp.c_fc.weight.data[0, 0] = torch.nan
    with pytest.raises(ModelRefused, match=r"^non_finite_logits"):
        prove(load(model))


@pytest.mark.parametrize("keyword", ["position_bias", "alibi", "block_mask"])
def test_attention_refuses_a_keyword_it_does_not_know(load: Any, keyword: str) -> None:
    loaded = load("gpt2")
    loaded.loaded.model.set_attn_implementation(ATTENTION)
    with pytest.raises(ModelRefused, match=f"its attention asks for {keyword}"):
        loaded.loaded.model(input_ids=torch.tensor([[1]]), batch=runner.RowBatch([], loaded.kv_cache), **{keyword: 1})


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelRefused, match=r"^load_failed: transformers cannot load it"):
        load_model(tmp_path, device=torch.device("cpu"), dtype=torch.float32)


def test_truncated_weights_are_refused(tmp_path: Path) -> None:
    tiny_model("gpt2").save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelRefused, match=r"^load_failed"):
        load_model(tmp_path, device=torch.device("cpu"), dtype=torch.float32)


def test_weights_that_lack_a_tensor_are_refused(tmp_path: Path) -> None:
    model = tiny_model("gpt2")
    state = {name: tensor for name, tensor in model.state_dict().items() if name != "transformer.h.1.ln_1.weight"}
    model.save_pretrained(tmp_path, state_dict=state)
    with pytest.raises(ModelRefused, match=r"its weights lack transformer\.h\.1\.ln_1\.weight"):
        load_model(tmp_path, device=torch.device("cpu"), dtype=torch.float32)


@pytest.mark.parametrize("architecture", ["longrope", "chunked"])
def test_the_context_ends_where_the_length_of_others_would_matter(load: Any, architecture: str) -> None:
    runner = load(architecture)
    assert runner.loaded.context_length == 64
    prove(runner)
