import pytest
from rhapsode_trainer.config import load_recipe, recipe_names
from rhapsode_trainer.errors import ConfigError


def test_every_shipped_recipe_loads() -> None:
    assert "quickstart" in recipe_names()
    for name in recipe_names():
        assert load_recipe(name).as_dict()["seed"] >= 0


def test_overrides_apply_in_order_and_keep_their_type() -> None:
    overrides = ["data.held_out=0.2", "training.arguments.learning_rate=3e-3", "data.held_out=0.3", "model.n_inner=7"]
    recipe = load_recipe("quickstart", overrides)
    assert recipe.data.held_out == 0.3
    assert recipe.training.arguments["learning_rate"] == 3e-3
    assert recipe.model["n_inner"] == 7


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("data.held_out=2", "data.held_out: 2"),
        ("data.held_out=lots", "data.held_out: 'lots'"),
        ("data.held_out=true", "data.held_out: True"),
        ("data.helt_out=0.1", "data.helt_out: unknown field"),
        ("date.held_out=0.1", "--set date.held_out"),
        ("seed.deeper=1", "--set seed.deeper"),
        ("seed=-1", "seed: -1"),
        ("seed", "a.b=value"),
        ("seed=[", "--set seed"),
        ("model=gpt2", "model: 'gpt2'"),
        ("data=3", "data: expected fields"),
        ("data.sources=3", "data.sources: 3 is not a list"),
        ("data.sources.0.format=doc", "data.sources.0.format: 'doc'"),
        ("data.sources.7.path=x", "--set data.sources.7.path"),
        ("rows.kind=loose", "rows.kind: 'loose'"),
        ("gate.tolerance=-1", "gate.tolerance: -1"),
        ("training.epochs=2", "training.arguments.max_steps: 700"),
        ("postprocess=[shout]", "postprocess: "),
        ("base={model: gpt2}", "model: "),
        ("tokenizer.vocab_size=100", "tokenizer.vocab_size: 100"),
        ("tokenizer.dropout=1", "tokenizer.dropout: 1"),
        ("training.optimizer=sgd", "training.optimizer: 'sgd'"),
        ("training.arguments.max_steps=0", "training.arguments.max_steps: 0"),
        ("evaluation.stride=0", "evaluation.stride: 0"),
        ("sample.prompt=", "sample.prompt: None"),
        ("sample.max_new_tokens=1.5", "sample.max_new_tokens: 1.5"),
    ],
)
def test_a_wrong_value_is_named(override: str, named: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load_recipe("quickstart", [override])
    assert named in str(raised.value)


def test_an_unknown_recipe_lists_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"no recipe 'sonnets'; there are: .*quickstart"):
        load_recipe("sonnets")
