"""What transformers' own Trainer reports for the same model and documents: the reasons for numbers of our own."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from rhapsode_trainer.evaluation.likelihood import score_documents, total
from torch import Tensor
from transformers import Trainer, TrainingArguments

CONTEXT = 64


def stock_eval_loss(model: Any, documents: list[list[int]], batch_size: int, tmp_path: Path) -> float:
    """eval_loss in the usual manner: rows padded, padding masked in the labels."""

    def collate(rows: list[dict[str, list[int]]]) -> dict[str, Tensor]:
        longest = max(len(row["ids"]) for row in rows)
        labels = torch.tensor([row["ids"] + [-100] * (longest - len(row["ids"])) for row in rows])
        return {"input_ids": labels.clamp(min=0), "attention_mask": (labels >= 0).long(), "labels": labels}

    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        per_device_eval_batch_size=batch_size,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
    )
    rows = datasets.Dataset.from_dict({"ids": documents})
    trainer = Trainer(model=model, args=arguments, eval_dataset=rows, data_collator=collate)
    return float(trainer.evaluate()["eval_loss"])


def exact_loss(model: Any, documents: list[list[int]], batch_size: int) -> float:
    sizes = [1] * len(documents)
    whole = total(score_documents(model, documents, sizes, context=CONTEXT, stride=CONTEXT, batch_size=batch_size))
    return whole.nats / whole.tokens


def draw(lengths: list[int]) -> list[list[int]]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(1, 300, (length,), generator=generator).tolist() for length in lengths]


def test_stock_counts_a_target_too_many_in_each_row_of_gpt2(make_model: Callable[..., Any], tmp_path: Path) -> None:
    rows = draw([CONTEXT] * 6)
    for kind, factor in (("gpt2", (CONTEXT - 1) / CONTEXT), ("llama", 1.0)):
        model = make_model(kind, context=CONTEXT)
        exact = exact_loss(model, rows, 2)
        assert stock_eval_loss(model, rows, 2, tmp_path) == pytest.approx(factor * exact, rel=1e-5)


def test_stock_depends_on_the_batch_size_and_ours_does_not(make_model: Callable[..., Any], tmp_path: Path) -> None:
    model, documents = make_model("gpt2", context=CONTEXT), draw([3, 50, 7, 64, 12, 4, 33, 5])
    model.loss_type = "ForCausalLM"
    ours = [exact_loss(model, documents, batch_size) for batch_size in (1, 2, 8)]
    stock = [stock_eval_loss(model, documents, batch_size, tmp_path) for batch_size in (1, 2, 8)]
    assert max(ours) - min(ours) < 1e-5
    assert max(stock) - min(stock) > 0.01
    assert stock[2] == pytest.approx(ours[2], abs=1e-5), "one batch of all documents is the one case that is right"


def test_stock_drops_a_batch_that_is_nan_and_ours_does_not(make_model: Callable[..., Any], tmp_path: Path) -> None:
    model = make_model("gpt2", context=CONTEXT)
    with torch.no_grad():
        model.transformer.wte.weight[7] = math.nan
        model.lm_head.weight = torch.nn.Parameter(model.transformer.wte.weight.nan_to_num(0.0))
    documents = [[1, 2, 3], [1, 7, 3], [4, 5, 6]]
    assert math.isfinite(stock_eval_loss(model, documents, 1, tmp_path))
    assert math.isnan(exact_loss(model, documents, 1))
