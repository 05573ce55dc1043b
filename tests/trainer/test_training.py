import dataclasses
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rhapsode_trainer.config import load_recipe
from rhapsode_trainer.data.tokenizer import train_tokenizer
from rhapsode_trainer.errors import ConfigError, Interrupted
from rhapsode_trainer.interruption import watch_signals
from rhapsode_trainer.training.model import build_model
from rhapsode_trainer.training.muon import orthogonalise
from rhapsode_trainer.training.train import make_trainer, rows_needed, train, training_arguments
from support.packing import pack
from transformers import Trainer, default_data_collator
from transformers.trainer_callback import PrinterCallback

TRAINING = load_recipe("quickstart").training
RECIPE = load_recipe("quickstart", ["model.n_embd=16", "model.n_head=2", "model.n_layer=1", "model.n_positions=32"])


def rows(count: int, block_size: int = 16) -> list[dict[str, list[int]]]:
    generator = torch.Generator().manual_seed(3)
    texts = [torch.randint(1, 250, (length,), generator=generator).tolist() for length in (3, 9, 5, 20, 11)]
    packed = pack(lambda: list(texts), end_of_text=0, block_size=block_size, rows=count, seed=0)
    return [{**row, "labels": row["input_ids"]} for row in packed]


def arguments(path: Path, **changes: Any) -> Any:
    chosen = {"max_steps": 2, "per_device_train_batch_size": 4, "learning_rate": 0.01, "logging_steps": 1, **changes}
    return training_arguments(dataclasses.replace(TRAINING, arguments=chosen), seed=0, output_dir=path)


def no_report(done: int, total: int, loss: float | None) -> None:
    pass


def hand_loss(model: Any, batch: list[dict[str, list[int]]]) -> float:
    """Mean over the predicted tokens, each document alone, one token at a time."""
    losses = []
    for row in batch:
        starts = [index for index, position in enumerate(row["position_ids"]) if position == 0]
        for target in range(1, len(row["input_ids"])):
            start = max(index for index in starts if index < target)
            with torch.no_grad():
                logits = model(torch.tensor([row["input_ids"][start:target]])).logits[0, -1]
            losses.append(-logits.log_softmax(-1)[row["input_ids"][target]].item())
    return sum(losses) / len(losses)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_the_training_loss_is_exact_where_stock_trainer_s_is_not(
    kind: str, make_model: Callable[..., Any], tmp_path: Path
) -> None:
    batch, expected = rows(4), hand_loss(make_model(kind), rows(4))
    reported = {}
    for name in ("ours", "stock"):
        model, options = make_model(kind), arguments(tmp_path, max_steps=1)
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        if name == "ours":
            trainer = make_trainer(model, batch, options, "trainer")
        else:
            model.config.use_cache = False
            trainer = Trainer(model=model, args=options, train_dataset=batch, data_collator=default_data_collator)
            trainer.remove_callback(PrinterCallback)
        trainer.train()
        reported[name] = trainer.state.log_history[0]["loss"]
    assert reported["ours"] == pytest.approx(expected, rel=1e-5)
    if kind == "gpt2":
        assert reported["stock"] == pytest.approx(expected * 15 / 16, rel=1e-5), "a target too many in each row of 16"


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_packed_documents_do_not_see_each_other(kind: str, make_model: Callable[..., Any]) -> None:
    model = make_model(kind)
    model.config.use_cache = False
    first, second = [0, 5, 9, 4], [0, 8, 2, 250, 31]
    places = torch.tensor([[*range(len(first)), *range(len(second))]])
    with torch.no_grad():
        packed = model(input_ids=torch.tensor([first + second]), position_ids=places).logits[0, len(first) :]
        alone = model(input_ids=torch.tensor([second])).logits[0]
    torch.testing.assert_close(packed, alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("optimizer", ["muon", "trainer"])
def test_training_learns_where_documents_end(optimizer: str, tmp_path: Path) -> None:
    texts = [[1, 2, 3], [4, 5]]
    tokenizer = train_tokenizer(["a b"], 257)
    model = build_model(RECIPE.model, RECIPE.generation, tokenizer, seed=0)
    options = arguments(tmp_path, max_steps=100, learning_rate=0.03)
    packed = pack(lambda: list(texts), end_of_text=0, block_size=16, rows=rows_needed(options), seed=0)
    with watch_signals() as interruption:
        log = train(model, packed, options, optimizer=optimizer, report=no_report, interruption=interruption)
    assert len([entry for entry in log if "loss" in entry]) == 100
    with torch.no_grad():
        ends = model.eval()(torch.tensor([[0, 1, 2, 3]])).logits[0].softmax(-1)[:, 0]
    assert ends[3] > 0.8
    assert max(ends[:3]) < 0.2
    assert model.config.use_cache is True


def test_the_same_seed_trains_the_same_weights(tmp_path: Path) -> None:
    weights = []
    for _ in range(2):
        model = build_model(RECIPE.model, RECIPE.generation, train_tokenizer(["a b"], 300), seed=0)
        with watch_signals() as interruption:
            train(model, rows(8), arguments(tmp_path), optimizer="muon", report=no_report, interruption=interruption)
        weights.append(torch.cat([parameter.flatten() for parameter in model.parameters()]))
    assert torch.equal(weights[0], weights[1])


def test_a_signal_ends_training_at_the_next_step(tmp_path: Path) -> None:
    steps = []

    def report(done: int, total: int, loss: float | None) -> None:
        steps.append(done)
        if done == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    model = build_model(RECIPE.model, RECIPE.generation, train_tokenizer(["a b"], 300), seed=0)
    before = signal.getsignal(signal.SIGTERM)
    with watch_signals() as interruption, pytest.raises(Interrupted, match="SIGTERM: nothing was published"):
        train(
            model,
            rows(40),
            arguments(tmp_path, max_steps=10),
            optimizer="muon",
            report=report,
            interruption=interruption,
        )
    assert steps in ([1, 2], [1, 2, 3])
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 8, 32), (2, 32, 8)])
def test_orthogonalise_evens_out_the_singular_values(shape: tuple[int, ...]) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    result = orthogonalise(matrices)
    left, _, right = torch.linalg.svd(matrices, full_matrices=False)
    core = left.mT @ result @ right.mT
    values = core.diagonal(dim1=-2, dim2=-1)
    assert values.min() > 0.3
    assert values.max() < 1.3
    torch.testing.assert_close(core, torch.diag_embed(values), atol=1e-8, rtol=0)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"bogus": 1}, "bogus"),
        ({"report_to": "tensorboard"}, "report_to"),
        ({"seed": 3}, "seed"),
        ({"learning_rate": "fast"}, "learning_rate"),
    ],
)
def test_arguments_that_are_unknown_or_not_for_recipes_are_named(
    changes: dict[str, Any], field: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=rf"training\.arguments\.{field}"):
        arguments(tmp_path, **changes)


@pytest.mark.parametrize(
    ("model", "generation", "complaint"),
    [
        ({"model_type": "gpt9"}, {}, "model.model_type: transformers knows no 'gpt9'"),
        ({"model_type": "gpt2", "n_emb": 3}, {}, "model.n_emb"),
        ({"model_type": "gpt2", "vocab_size": 3}, {}, "model.vocab_size"),
        ({"model_type": "gpt2", "n_embd": 16, "n_head": 3}, {}, "model: "),
        ({"model_type": "t5"}, {}, "model: "),
        ({"model_type": "gpt2", "n_embd": 16, "n_head": 2}, {"temprature": 1}, "generation.temprature"),
        ({"model_type": "gpt2", "n_embd": 16, "n_head": 2}, {"top_p": 7}, "generation.top_p: 7"),
        ({"model_type": "gpt2", "n_embd": 16, "n_head": 2}, {"temperature": "hot"}, "generation.temperature: 'hot'"),
        ({"model_type": "gpt2", "n_layer": "abc"}, {}, "model: Validation error for field 'n_layer'"),
        ({"model_type": "gpt2", "n_layer": -3}, {}, "model.n_layer: -3 is negative"),
        ({"model_type": "gpt2", "n_head": 0}, {}, "model: "),
    ],
)
def test_a_wrong_architecture_is_named(model: dict[str, Any], generation: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError) as raised:
        build_model(model, generation, train_tokenizer(["a b"], 257), seed=0)
    assert str(raised.value).startswith(complaint)
