import json
from typing import Any

import pytest
from huggingface_hub import ModelCard
from rhapsode_trainer.config import load_recipe
from rhapsode_trainer.publish.card import imported_card, trained_card


def evaluation(**changes: Any) -> dict[str, Any]:
    numbers = {"bits_per_byte": 2.5, "perplexity": 40.0, "bytes": 1000}
    interval = {"low": 2.4, "high": 2.6, "confidence": 0.95}
    return {
        "data": {"train_documents": 90, "held_out_documents": 10},
        "before": {**numbers, "bits_per_byte": 8.0, "perplexity": 2000.0},
        "champion": None,
        "after": {**numbers, "bits_per_byte_interval": interval},
        "xz_bits_per_byte": 2.8,
        **changes,
    }


def card(**changes: Any) -> str:
    return trained_card("poems", "quickstart", load_recipe("quickstart"), evaluation(**changes))


def test_hugging_face_reads_the_results() -> None:
    data = ModelCard(card()).data
    assert data.library_name == "transformers"
    assert data.model_name == "poems"
    assert data.eval_results is not None
    results = {result.metric_type: result.metric_value for result in data.eval_results}
    assert results == {"bits_per_byte": 2.5, "perplexity": 40.0}
    assert {result.task_type for result in data.eval_results} == {"text-generation"}


def test_the_table_has_every_model_and_its_interval() -> None:
    text = card(champion={"bits_per_byte": 2.7, "perplexity": 50.0})
    assert "| before training | 8.000 | 2000.0 |\n| champion until then | 2.700 | 50.0 |\n" in text
    assert "| after training | 2.500 (2.400 to 2.600) | 40.0 |\n| `xz -9e`" in text
    assert "champion" not in card()


@pytest.mark.parametrize(
    ("passed", "forced", "text"),
    [
        (True, False, "Its gate passed it by 2 rules."),
        (False, False, "Its gate refused it: length.\n"),
        (False, True, "Its gate refused it: length. It was published by force."),
    ],
)
def test_the_verdict_is_told(passed: bool, forced: bool, text: str) -> None:
    rules = [{"name": "finite", "passed": True}, {"name": "length", "passed": passed}]
    assert text in card(verdict={"rules": rules, "forced": forced})


def test_a_model_that_diverged_has_no_results() -> None:
    broken = {"bits_per_byte": None, "perplexity": None, "bytes": 1000}
    text = card(after=broken)
    assert "| after training | not finite | not finite |" in text
    assert ModelCard(text).data.eval_results is None
    assert "NaN" not in json.dumps(ModelCard(text).data.to_dict())


def test_an_imported_model_has_no_results() -> None:
    assert ModelCard(imported_card("gpt2", "GPT2LMHeadModel", 124_000_000, "float32")).data.eval_results is None
