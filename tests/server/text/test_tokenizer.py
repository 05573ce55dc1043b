"""Ids, pieces, byte offsets and text against the `tokenizers` library itself."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from rhapsode_server.text.tokenizer import Piece, Tokenizer
from support.fuzzing import examples
from tokenizers import AddedToken, models, normalizers, pre_tokenizers, processors


def adjusted(pair: Any, **parts: Any) -> Tokenizer:
    """A tokenizer like the pair's, with some of its parts replaced."""
    library = tokenizers.Tokenizer.from_str(pair.library.to_str())
    for name, part in parts.items():
        setattr(library, name, part)
    return Tokenizer(library)


@settings(max_examples=examples(100), deadline=None)
@given(data=st.data())
def test_ids_are_the_librarys_and_lead_back_to_the_text(gpt2_like: Any, texts: Any, data: st.DataObject) -> None:
    text = data.draw(texts)
    ids = gpt2_like.tokenizer.encode(text)
    assert ids == gpt2_like.library.encode(text, add_special_tokens=False).ids
    assert gpt2_like.tokenizer.decode(ids, skip_special_tokens=False) == text


@settings(max_examples=examples(100), deadline=None)
@given(data=st.data())
def test_byte_level_pieces_span_exactly_their_bytes(gpt2_like: Any, texts: Any, data: st.DataObject) -> None:
    text = data.draw(texts)
    pieces = gpt2_like.tokenizer.encode_pieces(text)
    assert [piece.id for piece in pieces] == gpt2_like.tokenizer.encode(text)
    for piece in pieces:
        assert text.encode()[piece.start : piece.end] == gpt2_like.tokenizer.token_bytes(piece.id)
        assert piece.piece == gpt2_like.library.id_to_token(piece.id)
    assert [piece.start for piece in pieces] == [0, *(piece.end for piece in pieces)][: len(pieces)]


def test_byte_pieces_span_one_byte_and_a_prepended_space_none(llama_like: Any) -> None:
    pieces = llama_like.tokenizer.encode_pieces("sea \U0001f30a")
    assert pieces[0] == Piece(id=llama_like.library.token_to_id("▁sea"), piece="▁sea", start=0, end=3)
    assert [(piece.piece, piece.start, piece.end) for piece in pieces[1:]] == [
        ("▁", 3, 4), ("<0xF0>", 4, 5), ("<0x9F>", 5, 6), ("<0x8C>", 6, 7), ("<0x8A>", 7, 8)
    ]  # fmt: skip
    assert [(piece.piece, piece.start, piece.end) for piece in llama_like.tokenizer.encode_pieces("🌊")] == [
        ("▁", 0, 0), ("<0xF0>", 0, 1), ("<0x9F>", 1, 2), ("<0x8C>", 2, 3), ("<0x8A>", 3, 4)
    ]  # fmt: skip


def test_pieces_of_a_text_that_is_not_kept_span_whole_characters(llama_like: Any) -> None:
    pieces = llama_like.tokenizer.encode_pieces("sea▁\U0001f30a")
    assert [(piece.piece, piece.start, piece.end) for piece in pieces] == [
        ("▁sea", 0, 3), ("▁", 3, 6), ("<0xF0>", 6, 10), ("<0x9F>", 6, 10), ("<0x8C>", 6, 10), ("<0x8A>", 6, 10)
    ]  # fmt: skip


def test_a_file_with_truncation_padding_and_special_tokens_adds_and_loses_nothing(
    gpt2_like: Any, tmp_path: Path
) -> None:
    library = tokenizers.Tokenizer.from_str(gpt2_like.library.to_str())
    library.enable_truncation(4)
    library.enable_padding(length=50)
    library.post_processor = processors.TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
    )
    library.save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer.load(tmp_path)
    text = "The words are the sea, " * 5
    assert tokenizer.encode(text) == gpt2_like.tokenizer.encode(text)
    assert tokenizer.encode_pieces(text) == gpt2_like.tokenizer.encode_pieces(text)
    assert tokenizer.encode("") == []


def test_a_megabyte_is_encoded_while_other_threads_run(gpt2_like: Any) -> None:
    text = "The sea 🌊\0 is e\u0301 sea of words. " * 30_000
    done = threading.Event()
    ids: list[int] = []

    def encode() -> None:
        ids.extend(gpt2_like.tokenizer.encode(text))
        done.set()

    thread = threading.Thread(target=encode)
    thread.start()
    num_turns = 0
    while not done.wait(0.001):
        num_turns += 1
    thread.join()
    assert num_turns > 10, "encoding kept the interpreter's lock"
    assert gpt2_like.tokenizer.decode(ids) == text


def test_threads_get_the_same_ids(gpt2_like: Any, llama_like: Any) -> None:
    texts = [f"words {number} of the {number * number} seas 🌊" for number in range(200)]
    for tokenizer in (gpt2_like.tokenizer, llama_like.tokenizer):
        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(tokenizer.encode, texts)) == [tokenizer.encode(text) for text in texts]


@settings(max_examples=examples(100), deadline=None)
@given(data=st.data())
def test_a_text_has_no_fewer_tokens_than_the_bound_says(
    gpt2_like: Any, llama_like: Any, texts: Any, data: st.DataObject
) -> None:
    text = data.draw(texts | st.integers(0, 300).map(lambda n: "▁" * n) | st.integers(0, 300).map(lambda n: " " * n))
    for tokenizer in (gpt2_like.tokenizer, llama_like.tokenizer):
        assert len(tokenizer.encode(text)) * tokenizer.max_token_bytes >= len(text.encode())


def test_the_bound_is_the_longest_token(gpt2_like: Any) -> None:
    longest = max(gpt2_like.library.get_vocab().values(), key=lambda i: len(gpt2_like.tokenizer.token_bytes(i)))
    text = gpt2_like.tokenizer.token_bytes(longest).decode()
    assert gpt2_like.tokenizer.encode(text) == [longest]
    assert len(text.encode()) == gpt2_like.tokenizer.max_token_bytes


def test_there_is_no_bound_where_text_may_get_lost(gpt2_like: Any, neighbourly: Any) -> None:
    assert neighbourly.tokenizer.max_token_bytes is None
    assert adjusted(gpt2_like, normalizer=normalizers.NFC()).max_token_bytes is None
    assert adjusted(gpt2_like, normalizer=normalizers.Replace("a", "")).max_token_bytes is None
    splitting = pre_tokenizers.Sequence([pre_tokenizers.Split(" ", "isolated"), gpt2_like.library.pre_tokenizer])
    assert adjusted(gpt2_like, pre_tokenizer=splitting).max_token_bytes == gpt2_like.tokenizer.max_token_bytes
    removing = pre_tokenizers.Sequence([pre_tokenizers.Split(" ", "removed"), gpt2_like.library.pre_tokenizer])
    assert adjusted(gpt2_like, pre_tokenizer=removing).max_token_bytes is None
    some_bytes_only = models.BPE(vocab={"a": 0, "b": 1}, merges=[])
    assert adjusted(gpt2_like, model=some_bytes_only).max_token_bytes is None
    library = tokenizers.Tokenizer.from_str(gpt2_like.library.to_str())
    library.add_special_tokens([AddedToken("<mask>", lstrip=True)])
    assert Tokenizer(library).max_token_bytes is None


def test_ids_outside_the_vocabulary_are_named(gpt2_like: Any) -> None:
    tokenizer = gpt2_like.tokenizer
    assert tokenizer.vocabulary_size == gpt2_like.library.get_vocab_size()
    assert tokenizer.decode([tokenizer.vocabulary_size - 1]) == "<tool call>"
    with pytest.raises(ValueError, match=f"token id {tokenizer.vocabulary_size} is not in the vocabulary"):
        tokenizer.decode([1, tokenizer.vocabulary_size])
    with pytest.raises(ValueError, match="token id -1 is not"):
        tokenizer.token_bytes(-1)


def test_special_tokens_are_known_and_skipped(gpt2_like: Any) -> None:
    tokenizer = gpt2_like.tokenizer
    ids = tokenizer.encode("sea<|endoftext|> <tool call>")
    assert len(tokenizer.visible_ids(ids, skip_special_tokens=True)) == len(ids) - 1
    assert tokenizer.decode(ids) == "sea <tool call>"
    assert tokenizer.decode(ids, skip_special_tokens=False) == "sea<|endoftext|> <tool call>"


def test_a_missing_or_broken_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.json"
    with pytest.raises(ValueError, match=f"{file} is missing: save"):
        Tokenizer.load(tmp_path)
    for content in (b"", b"{", b"[]", b"\xff\xfe", b'{"version": "1.0"}'):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=rf"{file} is not a readable tokenizer \(.+\): save"):
            Tokenizer.load(tmp_path)
