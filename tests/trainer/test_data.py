import dataclasses
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rhapsode_trainer.config import DataConfig, load_recipe
from rhapsode_trainer.data.documents import is_held_out, load_corpus
from rhapsode_trainer.data.packing import pack, positions
from rhapsode_trainer.data.tokenizer import END_OF_TEXT, encode, random_encoder, train_tokenizer
from rhapsode_trainer.errors import ConfigError, DataError

POEMS = load_recipe("quickstart").data


def config(path: Path | str, held_out: float = 0.5) -> DataConfig:
    return DataConfig(path=str(path), text_field="text", held_out=held_out, split_salt="")


def test_the_shipped_poems_are_all_there_and_split_by_poem() -> None:
    corpus = load_corpus(POEMS)
    assert len(corpus.train) + len(corpus.held_out) == 709
    assert not set(corpus.train) & set(corpus.held_out)
    assert 0.08 < len(corpus.held_out) / 709 < 0.12
    assert corpus.held_out_bytes == sum(len(text.encode()) for text in corpus.held_out)


@given(st.text(), st.text())
def test_the_side_of_a_document_depends_on_its_text_and_the_salt_alone(text: str, salt: str) -> None:
    assert is_held_out(text, 0.1, salt) == is_held_out(text, 0.1, salt)
    assert is_held_out(text, 0.3, salt) or not is_held_out(text, 0.1, salt), "a larger share only adds documents"


def test_adding_documents_moves_none_of_the_others(tmp_path: Path) -> None:
    rows = [{"text": f"poem {number}"} for number in range(200)]
    path = tmp_path / "poems.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows[:100]))
    before = load_corpus(config(path))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows[::-1]))
    after = load_corpus(config(path))
    assert set(before.held_out) <= set(after.held_out)
    assert set(before.train) <= set(after.train)
    assert before.sha256 != after.sha256


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ('{"text": "a"}\n{"text": ', "line 2: not JSON"),
        ('{"text": "a"}\n\n{"title": "b"}', "line 3: no text in the field 'text'"),
        ('["a"]', "line 1: no text"),
        ('{"text": "  "}', "line 1: no text"),
        ('{"text": "a"}', "1 documents are too few"),
        ("", "0 documents are too few"),
    ],
)
def test_bad_data_is_rejected_by_file_and_line(tmp_path: Path, content: str, complaint: str) -> None:
    path = tmp_path / "poems.jsonl"
    path.write_text(content)
    with pytest.raises(DataError, match=complaint) as raised:
        load_corpus(config(path))
    assert str(path) in str(raised.value)
    assert raised.value.exit_code == 3


def test_bytes_that_are_not_utf_8_are_rejected(tmp_path: Path) -> None:
    path = tmp_path / "poems.jsonl"
    path.write_bytes(b'{"text": "\xff"}\n')
    with pytest.raises(DataError, match="line 1: not JSON in UTF-8"):
        load_corpus(config(path))


def test_a_missing_file_is_a_configuration_error(tmp_path: Path) -> None:
    for path in (str(tmp_path / "none.jsonl"), "package:none.jsonl"):
        with pytest.raises(ConfigError, match=r"data\.path: cannot read"):
            load_corpus(dataclasses.replace(POEMS, path=path))


def test_the_tokenizer_learns_from_the_training_texts_alone() -> None:
    train, held_out = ["banana bandana"] * 50, ["xylophone xylophone"] * 500
    tokenizer = train_tokenizer(train, 270)
    assert len(tokenizer.tokenize("banana")) == 1
    assert len(tokenizer.tokenize(held_out[0])) == len(held_out[0]), "no merge of the held-out text was learned"


@given(st.text())
def test_any_text_survives_encoding(text: str) -> None:
    ids = encode(_TOKENIZER.backend_tokenizer, [text])[0]
    assert _TOKENIZER.backend_tokenizer.decode(ids, skip_special_tokens=False) == text


def test_merge_dropout_varies_the_ids_but_not_the_text_and_ends_with_the_call() -> None:
    tokenizer, texts = _TOKENIZER.backend_tokenizer, ["the thing there"] * 20
    dropped = random_encoder(tokenizer, texts, 0.5)()
    plain = encode(tokenizer, texts)
    assert dropped != plain
    assert [tokenizer.decode(ids) for ids in dropped] == texts
    assert encode(tokenizer, texts) == plain
    assert random_encoder(tokenizer, texts, 0.0)() == plain


documents = st.lists(st.lists(st.integers(1, 9), max_size=12), min_size=1, max_size=6)


@given(documents, st.integers(2, 8), st.integers(1, 20), st.integers(0, 3))
def test_rows_are_full_and_hold_every_document_of_a_pass_once(
    texts: list[list[int]], block_size: int, rows: int, seed: int
) -> None:
    packed = list(pack(lambda: list(texts), end_of_text=0, block_size=block_size, rows=rows, seed=seed))
    assert len(packed) == rows
    assert all(len(row["input_ids"]) == block_size for row in packed)
    assert all(row["labels"] == row["input_ids"] for row in packed), "end-of-text is a target like any other"
    stream = [token for row in packed for token in row["input_ids"]]
    one_pass = sum(len(text) + 1 for text in texts)
    if len(stream) >= one_pass:
        assert sorted(_split(stream[:one_pass])) == sorted(texts)
    assert packed == list(pack(lambda: list(texts), end_of_text=0, block_size=block_size, rows=rows, seed=seed))


def _split(stream: list[int]) -> list[list[int]]:
    parts: list[list[int]] = []
    for token in stream:
        if token == 0:
            parts.append([])
        else:
            parts[-1].append(token)
    return parts


def test_positions_restart_at_each_document() -> None:
    assert positions([7, 8, 0, 5, 6, 0, 0, 4], end_of_text=0) == [0, 1, 0, 1, 2, 0, 0, 1]


def test_the_end_of_text_token_is_one_token_that_no_text_contains_by_accident() -> None:
    assert _TOKENIZER.eos_token == _TOKENIZER.bos_token == END_OF_TEXT
    assert _TOKENIZER.eos_token_id == 0
    assert 0 not in encode(_TOKENIZER.backend_tokenizer, ["< | endoftext | >"])[0]


_TOKENIZER = train_tokenizer(["the thing that there is then"] * 20, 280)
