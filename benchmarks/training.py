"""Training beside stock `transformers.Trainer`: the same documents, model, epochs, tokens in a step and learning rates.

Two kinds of data: short documents (the shipped poems) and full blocks (the poems as one long document). Stock Trainer
trains on short documents in two manners: each padded to the longest of its batch, and all joined and cut into blocks,
documents seeing one another, as transformers' example run_clm does. All ways alternate in one process; of each the
fastest round counts, which other work on the machine has disturbed least.
Tokens are those that are not padding; the loss is exact, in nats a token of held-out documents, after training.

Figures of two runs are not comparable, the ratios within one are. Usage: python benchmarks/training.py [--rounds N]
"""

import argparse
import gc
import json
import logging
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib import resources
from itertools import chain
from pathlib import Path
from typing import Any

import datasets
import rhapsode_trainer.data
import torch
from rhapsode_trainer.config import TrainingConfig
from rhapsode_trainer.data.encoding import Encoded
from rhapsode_trainer.data.rows import rows_of_pass
from rhapsode_trainer.data.settings import RowsConfig
from rhapsode_trainer.data.tokenizer import train_tokenizer
from rhapsode_trainer.evaluation.likelihood import score_documents
from rhapsode_trainer.evaluation.scores import total
from rhapsode_trainer.interruption import Interruption
from rhapsode_trainer.training.arguments import half_precision
from rhapsode_trainer.training.speed import device_name, mfu, training_flops_per_token
from rhapsode_trainer.training.train import train, training_arguments
from transformers import (
    DataCollatorForLanguageModeling,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
    default_data_collator,
)

PADDED, JOINED, OURS = "Trainer, padded", "Trainer, joined", "rhapsode"
HELD_OUT = 10  # every tenth poem

Documents = Sequence[Sequence[int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A model and how it is trained. About `documents` poems take part, `repeat` times in an epoch."""

    vocabulary: int
    width: int = 192
    layers: int = 4
    heads: int = 6
    block: int = 256
    rows: int = 4
    documents: int = 709
    repeat: int = 1
    epochs: int = 1
    learning_rate: float = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """`tokens` are those trained on without padding, `places` with it."""

    tokens: int
    places: int


Way = Callable[[Any, Documents, Setting, Path], Trained]

CPU = (Setting(vocabulary=2048), Setting(vocabulary=50257, documents=90))
GPU = (Setting(vocabulary=50257, width=768, layers=12, heads=12, block=1024, rows=32, repeat=16, learning_rate=6e-4),)
QUICK = (Setting(vocabulary=512, width=16, layers=1, heads=2, block=64, documents=30),)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="rounds, of which the fastest counts (default: 3)")
    parser.add_argument("--quick", action="store_true", help="a few steps of a tiny model; its ratios mean nothing")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    options = parser.parse_args()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    settings = QUICK if options.quick else GPU if torch.cuda.is_available() else CPU
    results = [row for setting in settings for row in measure_setting(setting, options.rounds)]
    machine = f"{device_name()}, {os.cpu_count()} cores, {platform.machine()}, torch {torch.__version__}"
    if options.json:
        options.json.write_text(json.dumps({"machine": machine, "rows": results}, indent=2) + "\n")
    print(table(machine, results))


def measure_setting(setting: Setting, rounds: int) -> Iterator[dict[str, Any]]:
    """The rows of the table for one model, on both kinds of data."""
    training, held_out, tokenizer = read_poems(setting)
    ways: dict[str, Way] = {
        PADDED: partial(train_padded, tokenizer=tokenizer),
        JOINED: train_joined,
        OURS: partial(train_ours, kind="packed"),
    }
    yield from measure(ways, training, held_out, setting, rounds, "short documents")
    ways = {JOINED: train_joined, OURS: partial(train_ours, kind="blocks")}
    yield from measure(ways, [_joined(training)], [_joined(held_out)], setting, rounds, "full blocks")


def read_poems(setting: Setting) -> tuple[Documents, Documents, PreTrainedTokenizerFast]:
    """Ids of training and held-out poems, each between two tokens that end a text."""
    lines = (
        resources.files(rhapsode_trainer.data).joinpath("poems/poems.jsonl").read_text(encoding="utf-8").splitlines()
    )
    texts = [json.loads(line)["text"] for line in lines[:: len(lines) // setting.documents]]
    tokenizer = train_tokenizer(texts, min(setting.vocabulary, 2048))
    end = tokenizer.eos_token_id
    tokenizer.pad_token = tokenizer.eos_token
    ids = [[end, *tokenizer.encode(text, add_special_tokens=False), end] for text in texts]
    training = [document for index, document in enumerate(ids) if index % HELD_OUT]
    return training * setting.repeat, ids[::HELD_OUT], tokenizer


def _joined(documents: Documents) -> list[int]:
    return [*chain.from_iterable(document[:-1] for document in documents), documents[-1][-1]]


def measure(
    ways: dict[str, Way], training: Documents, held_out: Documents, setting: Setting, rounds: int, data: str
) -> Iterator[dict[str, Any]]:
    """One row for each way. A short run of each comes before: the first pays for what the process does once."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    cpu_seconds: dict[str, list[float]] = {name: [] for name in ways}
    trained: dict[str, Trained] = {}
    nats: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        few = [document[: 4 * setting.block] for document in training[:4]]
        for way in ways.values():
            way(make_model(setting), few, replace(setting, epochs=1), Path(folder))
        for _ in range(rounds):
            for name, way in ways.items():
                model = make_model(setting)
                gc.collect()
                began, cpu_began = time.perf_counter(), time.process_time()
                trained[name] = way(model, training, setting, Path(folder))
                if torch.cuda.is_available():
                    torch.cuda.synchronize()
                seconds[name].append(time.perf_counter() - began)
                cpu_seconds[name].append(time.process_time() - cpu_began)
                nats[name] = nats.get(name) or held_out_nats(model, held_out, setting)
    flops = training_flops_per_token(model, setting.block)
    stock = trained[JOINED].tokens / min(seconds[JOINED])
    for name in ways:
        rate = trained[name].tokens / min(seconds[name])
        yield {
            "data": data,
            "way": name,
            "setting": asdict(setting),
            "seconds": seconds[name],
            "cpu_seconds": cpu_seconds[name],
            "tokens": trained[name].tokens,
            "tokens_per_second": rate,
            "ratio": rate / stock,
            "padding_share": 1 - trained[name].tokens / trained[name].places,
            "nats_per_token": nats[name],
            "mfu": mfu(rate, flops, device_name()),
        }


def make_model(setting: Setting) -> GPT2LMHeadModel:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "n_embd": setting.width,
        "n_layer": setting.layers,
        "n_head": setting.heads,
        "n_positions": setting.block,
    }
    kind: dict[str, Any] = {
        "activation_function": "gelu_pytorch_tanh",
        "attn_pdrop": 0.0,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }
    return GPT2LMHeadModel(GPT2Config(vocab_size=setting.vocabulary, **sizes, **kind))


def held_out_nats(model: Any, documents: Documents, setting: Setting) -> float:
    """Exact, a token."""
    sizes = [1] * len(documents)  # bytes, which nobody asks for here
    parts = score_documents(
        model, documents, sizes, context=setting.block, stride=setting.block // 2, batch_size=setting.rows
    )
    return total(parts).nats / total(parts).tokens


def train_ours(model: Any, documents: Documents, setting: Setting, folder: Path, *, kind: str) -> Trained:
    """As `rhapsode-train run` does."""
    encoded = [Encoded(ids=ids, first_target=1) for ids in documents]
    config = RowsConfig(kind=kind, block_size=setting.block)
    passes = [rows_of_pass(encoded, config, pad=0, seed=0, epoch=epoch) for epoch in range(setting.epochs)]
    rows = [row for one in passes for row in one]
    chosen = {**_schedule(setting), "max_steps": -(-len(rows) // setting.rows), **half_precision()}
    arguments = training_arguments(
        TrainingConfig(optimizer="trainer", arguments=chosen | {"per_device_train_batch_size": setting.rows}),
        seed=0,
        output_dir=folder,
    )
    train(
        model,
        rows,
        arguments,
        optimizer="trainer",
        report=lambda done, total, loss: None,
        interruption=Interruption(),
        compiled="auto",
        tell=print,
    )
    return Trained(tokens=sum(one.tokens for one in passes), places=len(rows) * setting.block)


def train_joined(model: Any, documents: Documents, setting: Setting, folder: Path) -> Trained:
    """All documents one after the other, cut into blocks; what is left of the last is dropped."""
    ids = _joined(documents)
    blocks = [ids[start : start + setting.block] for start in range(0, len(ids) - setting.block + 1, setting.block)]
    rows = [{"input_ids": block, "labels": block, "attention_mask": [1] * len(block)} for block in blocks]
    _train_stock(model, rows, setting, setting.rows, default_data_collator, folder)
    tokens = setting.epochs * len(blocks) * setting.block
    return Trained(tokens=tokens, places=tokens)


def train_padded(
    model: Any, documents: Documents, setting: Setting, folder: Path, *, tokenizer: PreTrainedTokenizerFast
) -> Trained:
    """Each document in a row of its own, or in several if it is longer than a block."""
    pieces = [ids[start : start + setting.block] for ids in documents for start in range(0, len(ids), setting.block)]
    rows = [{"input_ids": piece, "attention_mask": [1] * len(piece)} for piece in pieces]
    tokens = sum(len(piece) for piece in pieces)
    batch = max(1, round(setting.rows * setting.block * len(pieces) / tokens))
    collate = DataCollatorForLanguageModeling(tokenizer, mlm=False)
    places = 0

    def counted(features: Any) -> Any:
        nonlocal places
        features = collate(features)
        places += features["input_ids"].numel()
        return features

    _train_stock(model, rows, setting, batch, counted, folder)
    return Trained(tokens=setting.epochs * tokens, places=places)


def _train_stock(
    model: Any, rows: list[dict[str, Any]], setting: Setting, batch: int, collate: Any, folder: Path
) -> None:
    precision: dict[str, Any] = {**half_precision()}
    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=batch,
        num_train_epochs=setting.epochs,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=0,
        dataloader_pin_memory=torch.cuda.is_available(),
        **_schedule(setting),
        **precision,
    )
    dataset = datasets.Dataset.from_list(rows)
    trainer = Trainer(model=model, args=arguments, train_dataset=dataset, data_collator=collate)
    trainer.callback_handler.callbacks = [
        callback for callback in trainer.callback_handler.callbacks if type(callback).__name__ != "PrinterCallback"
    ]
    trainer.train()


def _schedule(setting: Setting) -> dict[str, Any]:
    return {
        "learning_rate": setting.learning_rate,
        "lr_scheduler_type": "linear",
        "warmup_steps": 0.05,
        "weight_decay": 0.1,
        "max_grad_norm": 1.0,
        "logging_steps": 10,
    }


def table(machine: str, results: Sequence[dict[str, Any]]) -> str:
    """Markdown."""
    lines = [
        "| data | vocabulary | way | tokens/s | to joined | padding | held-out nats/token | MFU |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in results:
        used = "" if row["mfu"] is None else f"{row['mfu']:.1%}"
        lines.append(
            f"| {row['data']} | {row['setting']['vocabulary']:,} | {row['way']} | {row['tokens_per_second']:,.0f} "
            f"| {row['ratio']:.2f} | {row['padding_share']:.1%} | {row['nats_per_token']:.4f} | {used} |"
        )
    return "\n".join([f"GPT-2 from scratch, {machine}", "", *lines])


if __name__ == "__main__":
    main()
