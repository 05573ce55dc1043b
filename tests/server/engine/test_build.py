"""Building an engine: facts of the model, sizes, and refusals with their reason."""

from pathlib import Path
from typing import Any

import pytest
from rhapsode_server.engine.build import BuiltEngine, build_engine
from rhapsode_server.engine.options import EngineOptions
from rhapsode_server.engine.refusal import ModelRefused
from rhapsode_server.engine.request import EngineRequest
from support.tiny_models import VOCABULARY_SIZE, tiny_model

BYTES_PER_TOKEN = 2 * 2 * 16 * 3 * 4  # keys and values, 2 heads, 16 wide, 3 layers, float32


def build(path: Path, **overrides: Any) -> BuiltEngine:
    tiny_model("llama").save_pretrained(path)
    settings = {"path": str(path), "vocabulary_size": VOCABULARY_SIZE, "device": "cpu", "max_sequences": 4}
    return build_engine(EngineOptions(**settings | overrides))


def test_the_facts(tmp_path: Path) -> None:
    stages: list[str] = []
    tiny_model("llama").save_pretrained(tmp_path)
    options = EngineOptions(path=str(tmp_path), vocabulary_size=VOCABULARY_SIZE, device="cpu", max_sequences=4)
    built = build_engine(options, on_stage=stages.append)
    assert stages[0] == "warming"
    assert (built.context_length, built.loaded.dtype, str(built.loaded.device)) == (1024, "float32", "cpu")
    assert built.engine.scheduler.pool.num_blocks == 4 * (1024 + 16) // 16, "no more than four sequences can use"


def test_a_small_cache_limits_the_context(tmp_path: Path) -> None:
    built = build(tmp_path, kv_cache_memory=100 * BYTES_PER_TOKEN)
    assert built.context_length == 95
    whole = (0,) * built.context_length
    built.engine.submit(EngineRequest(request_id=0, prompt_ids=whole, max_new_tokens=1))
    assert built.engine.step().started, "a window of Score: a whole context, and the token after it"


def test_bfloat16_halves_the_memory_of_a_token(tmp_path: Path) -> None:
    built = build(tmp_path, kv_cache_memory=100 * BYTES_PER_TOKEN, dtype="bfloat16")
    assert (built.context_length, built.loaded.dtype) == (191, "bfloat16")


@pytest.mark.parametrize(
    ("overrides", "reason", "detail"),
    [
        ({"vocabulary_size": VOCABULARY_SIZE + 1}, "tokenizer_mismatch", "321 ids and the model only 320"),
        ({"kv_cache_memory": 1000}, "out_of_memory", "1,000 bytes for the KV cache hold fewer than 16 tokens of 768"),
        ({"device": "cuda:7"}, "load_failed", "'cuda:7' is not on this machine"),
        ({"device": "gpu"}, "load_failed", "'gpu' is none; give auto, cpu or cuda:N"),
    ],
)
def test_options_that_cannot_be_met_are_refused(
    tmp_path: Path, overrides: dict[str, Any], reason: str, detail: str
) -> None:
    with pytest.raises(ModelRefused, match=detail) as refusal:
        build(tmp_path, **overrides)
    assert refusal.value.reason == reason
