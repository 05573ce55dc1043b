from collections.abc import Callable
from typing import Any

import pytest
from rhapsode_trainer.config import SampleConfig
from rhapsode_trainer.data.tokenizer import train_tokenizer
from rhapsode_trainer.errors import ConfigError, Interrupted
from rhapsode_trainer.evaluation.samples import Sample, draw_sample, draw_samples
from transformers import GenerationConfig

PROMPTS = ["O, how", "The moon", "A"]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return train_tokenizer(["O, how the moon is pale tonight", "A summer's day"], 300)


@pytest.fixture
def model(make_model: Callable[..., Any], tokenizer: Any) -> Any:
    model = make_model("gpt2", vocab_size=len(tokenizer))
    model.generation_config = GenerationConfig(do_sample=True, top_k=0, eos_token_id=tokenizer.eos_token_id)
    return model


def draw(model: Any, tokenizer: Any, prompts: list[str], **options: Any) -> list[Sample]:
    return draw_samples(model, tokenizer, prompts, **{"stage": "after", "seed": 7, "max_new_tokens": 8, **options})


def test_what_a_prompt_gets_depends_on_itself_alone(model: Any, tokenizer: Any) -> None:
    together = draw(model, tokenizer, PROMPTS)
    assert [sample.prompt for sample in together] == PROMPTS
    assert together == [draw(model, tokenizer, [prompt])[0] for prompt in PROMPTS]
    assert draw(model, tokenizer, PROMPTS, seed=8) != together


def test_one_seed_gives_several_different_continuations(model: Any, tokenizer: Any) -> None:
    samples = draw(model, tokenizer, PROMPTS, count=3)
    assert [(sample.prompt, sample.index) for sample in samples] == [(p, index) for p in PROMPTS for index in range(3)]
    assert len({sample.text for sample in samples[:3]}) == 3
    assert samples == draw(model, tokenizer, PROMPTS, count=3)


def test_the_single_sample_is_the_first_of_many(model: Any, tokenizer: Any) -> None:
    config = SampleConfig(prompt=PROMPTS[0], seed=7, max_new_tokens=8)
    assert draw_sample(model, tokenizer, config, "after") == draw(model, tokenizer, PROMPTS)[0]


def test_texts_are_postprocessed_and_drawing_can_be_left(model: Any, tokenizer: Any) -> None:
    assert [sample.text for sample in draw(model, tokenizer, PROMPTS, postprocess=lambda text: "x")] == ["x"] * 3

    def stop() -> None:
        raise Interrupted("now")

    with pytest.raises(Interrupted):
        draw(model, tokenizer, PROMPTS, check=stop)


def test_a_text_ends_with_the_context(model: Any, tokenizer: Any) -> None:
    model.generation_config.eos_token_id = None
    sample = draw(model, tokenizer, ["A"], max_new_tokens=1000)[0]
    assert sample.text


@pytest.mark.parametrize("prompt", ["", "word " * 40])
def test_a_prompt_that_cannot_be_continued_is_named(model: Any, tokenizer: Any, prompt: str) -> None:
    with pytest.raises(ConfigError, match="cannot be continued in a context of 32"):
        draw(model, tokenizer, ["A", prompt])
