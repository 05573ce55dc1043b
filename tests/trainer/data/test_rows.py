from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rhapsode_trainer.data.encoding import Encoded
from rhapsode_trainer.data.rows import NO_LOSS, PassRows, Row, rows_of_pass
from rhapsode_trainer.data.settings import RowsConfig
from rhapsode_trainer.data.tokenizer import train_tokenizer
from transformers import DataCollatorForLanguageModeling, PreTrainedModel, default_data_collator

PAD = 77
kinds = st.sampled_from(["packed", "blocks"])
sizes = st.integers(2, 9)


@st.composite
def documents(draw: Callable[..., Any]) -> list[Encoded]:
    """Documents whose ids are all different, but for the end-of-text token 0: each target can be recognised."""
    found, following = [], 100
    for length in draw(st.lists(st.integers(1, 20), min_size=1, max_size=6)):
        ids = [0, *range(following, following + length), 0]
        found.append(Encoded(ids=ids, first_target=draw(st.integers(1, length + 1))))
        following += length
    return found


def make(found: list[Encoded], kind: str, block_size: int, seed: int = 0, epoch: int = 0) -> PassRows:
    return rows_of_pass(found, RowsConfig(kind=kind, block_size=block_size), pad=PAD, seed=seed, epoch=epoch)


@given(documents(), kinds, sizes, st.integers(0, 3))
def test_every_target_is_learned_once_a_pass_from_the_token_before_it(
    found: list[Encoded], kind: str, block_size: int, epoch: int
) -> None:
    learned = []
    for row in make(found, kind, block_size, epoch=epoch):
        assert row["labels"][0] == NO_LOSS
        places = np.flatnonzero(row["labels"] != NO_LOSS)
        assert places.size, "a row without targets is left out"
        assert (row["labels"][places] == row["input_ids"][places]).all()
        learned += [(int(row["input_ids"][place - 1]), int(row["labels"][place])) for place in places]
    expected = [
        (document.ids[place - 1], document.ids[place])
        for document in found
        for place in range(document.first_target, len(document.ids))
    ]
    assert sorted(learned) == sorted(expected)


@given(documents(), kinds, sizes)
def test_padding_is_counted_and_never_learned(found: list[Encoded], kind: str, block_size: int) -> None:
    rows = make(found, kind, block_size)
    padding = sum(int((row["input_ids"] == PAD).sum()) for row in rows)
    assert all((row["labels"][row["input_ids"] == PAD] == NO_LOSS).all() for row in rows)
    assert rows.tokens == len(rows) * block_size - padding
    assert rows.padding_share == pytest.approx(padding / (len(rows) * block_size))
    if kind == "packed":
        assert padding < block_size, "only the last row is not full"


@given(documents(), sizes)
def test_positions_restart_with_each_document_and_each_row(found: list[Encoded], block_size: int) -> None:
    for row in make(found, "packed", block_size):
        ids, positions = row["input_ids"].tolist(), row["position_ids"].tolist()
        assert positions[0] == 0
        for place in range(1, block_size):
            if ids[place] == 0 and ids[place + 1 : place + 2] in ([], [PAD]):
                continue  # nothing is predicted from here: it may be the last of one document or the first of another
            assert positions[place] == (0 if ids[place] in (0, PAD) else positions[place - 1] + 1)


@given(documents(), kinds, sizes, st.integers(0, 9), st.integers(0, 9))
def test_a_pass_depends_on_seed_and_epoch_alone(
    found: list[Encoded], kind: str, block_size: int, seed: int, epoch: int
) -> None:
    once, again = (make(found, kind, block_size, seed, epoch) for _ in range(2))
    assert _plain(once) == _plain(again)
    assert _plain(once)[-1] == _plain([again[-1]])[0], "any row can be asked for first"
    with pytest.raises(IndexError):
        once[len(once)]


def _plain(rows: Any) -> list[dict[str, list[int]]]:
    return [{name: values.tolist() for name, values in row.items()} for row in rows]


@pytest.mark.parametrize("kind", ["packed", "blocks"])
def test_passes_have_different_orders(kind: str) -> None:
    found = [Encoded(ids=[0, number, number, 0], first_target=1) for number in range(1, 30)]
    orders = [str(_plain(make(found, kind, 4, seed, epoch))) for seed in range(3) for epoch in range(3)]
    assert len(set(orders)) == 9


def test_a_document_of_450_tokens_makes_two_full_blocks_and_a_tail() -> None:
    rows = make([Encoded(ids=[0, *range(1000, 1448), 0], first_target=1)], "blocks", 200)
    assert sorted(int((row["input_ids"] != PAD).sum()) for row in rows) == [52, 200, 200]
    assert set(rows[0]) == {"input_ids", "labels"}, "no mask and no positions: nothing to look at but what is before"


def batch(rows: list[Row]) -> dict[str, torch.Tensor]:
    return default_data_collator([dict(row) for row in rows])


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_packed_documents_do_not_see_each_other(kind: str, make_model: Callable[..., PreTrainedModel]) -> None:
    model = make_model(kind)
    model.config.use_cache = False
    found = [Encoded(ids=[0, *range(10, 20), 0], first_target=1), Encoded(ids=[0, *range(30, 37), 0], first_target=1)]
    row = make(found, "packed", 32)[0]
    inputs = batch([row])
    with torch.no_grad():
        together = model(input_ids=inputs["input_ids"], position_ids=inputs["position_ids"]).logits[0]
        leaking = model(input_ids=inputs["input_ids"]).logits[0]
        masked = model(**inputs | {"labels": None}, attention_mask=torch.ones_like(inputs["input_ids"])).logits[0]
        second, begin = (found[1], 11) if row["input_ids"][1] == 10 else (found[0], 8)
        alone = model(input_ids=torch.tensor([second.ids])).logits[0]
    torch.testing.assert_close(together[begin : begin + len(second.ids)], alone, rtol=0, atol=1e-5)
    assert (leaking[begin : begin + len(second.ids)] - alone).abs().max() > 1e-2, "the test can tell a leak"
    assert (masked[begin : begin + len(second.ids)] - alone).abs().max() > 1e-2, "a stock collator's mask of ones leaks"


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_padding_changes_nothing_before_it(kind: str, make_model: Callable[..., PreTrainedModel]) -> None:
    model = make_model(kind)
    rows = make([Encoded(ids=[0, *range(10, 17), 0], first_target=1)], "blocks", 24)
    with torch.no_grad():
        padded = model(input_ids=batch([rows[0]])["input_ids"]).logits[0, :9]
        alone = model(input_ids=torch.tensor([[0, *range(10, 17), 0]])).logits[0]
    torch.testing.assert_close(padded, alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["packed", "blocks"])
def test_eos_is_learned_where_pad_is_eos_and_stock_collation_does_not(
    kind: str, make_model: Callable[..., PreTrainedModel]
) -> None:
    """https://github.com/huggingface/transformers/issues/23530"""
    tokenizer = train_tokenizer(["some words"], 260)
    tokenizer.pad_token = tokenizer.eos_token
    ids = [0, *range(40, 46), 0]
    stock = DataCollatorForLanguageModeling(tokenizer, mlm=False)([{"input_ids": ids}, {"input_ids": ids[:5]}])
    rows = rows_of_pass(
        [Encoded(ids=ids, first_target=1)], RowsConfig(kind=kind, block_size=12), pad=0, seed=0, epoch=0
    )
    ours = batch(list(rows))
    assert (stock["labels"] == 0).sum() == 0, "stock: no end is ever a target"
    assert (ours["labels"] == 0).sum() == 1
    assert _chance_of_end(make_model("gpt2"), stock, ids) < 0.1
    assert _chance_of_end(make_model("gpt2"), ours, ids) > 0.9


def _chance_of_end(model: PreTrainedModel, inputs: dict[str, torch.Tensor], ids: list[int]) -> float:
    """The probability of EOS after the document, once the model has been trained on it."""
    model.train()
    model.config.use_cache = False
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(40):
        model(**inputs).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        logits = model.eval()(input_ids=torch.tensor([ids[:-1]])).logits
    return float(logits[0, -1].softmax(-1)[ids[-1]])


def test_real_ids_come_as_arrays_and_rows_as_tensors() -> None:
    from array import array

    found = [Encoded(ids=array("i", [0, 5, 6, 7, 0]), first_target=2)]
    inputs = batch(list(make(found, "packed", 6)))
    assert inputs["labels"].dtype == inputs["input_ids"].dtype == torch.int64
    assert inputs["labels"].tolist() == [[-100, -100, 6, 7, 0, -100]]
    assert inputs["input_ids"].tolist() == [[0, 5, 6, 7, 0, PAD]]
