"""Banned words become the token sequences that spell them, at the beginning of a word and inside of one."""

import pytest
from rhapsode_server.errors import InvalidRequest
from rhapsode_server.rpc.requests.banned import banned_sequences
from rhapsode_server.text.tokenizer import Tokenizer
from support import metaspace
from support.publishing import tiny_tokenizer
from tokenizers import Tokenizer as Library
from tokenizers import decoders, models, normalizers

KINDS = {
    "byte level": Tokenizer(tiny_tokenizer()),
    "llama": Tokenizer(metaspace.llama()),
    "metaspace": Tokenizer(metaspace.metaspace()),
}


def spelled(tokenizer: Tokenizer, sequences: tuple[tuple[int, ...], ...]) -> list[bytes]:
    return sorted(b"".join(map(tokenizer.token_bytes, ids)) for ids in sequences)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("word", ["shine", "the", "é", "sea sun", "\U0001f600"])
def test_a_word_alone_and_with_a_space(kind: str, word: str) -> None:
    tokenizer = KINDS[kind]
    sequences = banned_sequences([word], tokenizer)
    assert set(spelled(tokenizer, sequences)) == {word.encode(), f" {word}".encode()}
    assert len(set(sequences)) == len(sequences)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", ["a shine b", "x\nshine", "Xshine", "shine"])
def test_it_is_found_wherever_the_tokenizer_spells_it(kind: str, text: str) -> None:
    """But where the tokenizer joins the word's letters to its neighbours': this sequence is not the word's own."""
    tokenizer = KINDS[kind]
    ids = tuple(tokenizer.encode(text))
    sequences = banned_sequences(["shine"], tokenizer)
    assert any(ids[start : start + len(each)] == each for each in sequences for start in range(len(ids)))


def test_each_sequence_once() -> None:
    tokenizer = KINDS["byte level"]
    assert banned_sequences(["the", "the"], tokenizer) == banned_sequences(["the"], tokenizer)
    assert banned_sequences([], tokenizer) == ()


def lower_case(replacement: str = "") -> Tokenizer:
    vocabulary = {piece: token_id for token_id, piece in enumerate(["[UNK]", *"abc ", "\n"])}
    library = Library(models.BPE(vocab=vocabulary, merges=[], unk_token="[UNK]"))
    library.normalizer = normalizers.Sequence([normalizers.Lowercase(), normalizers.Replace("c", "")])
    library.decoder = decoders.Fuse()
    return Tokenizer(library)


def test_a_tokenizer_that_respells_the_word() -> None:
    tokenizer = lower_case()
    assert set(spelled(tokenizer, banned_sequences(["AB"], tokenizer))) == {b"ab", b" ab"}


def test_a_word_of_which_nothing_is_left() -> None:
    with pytest.raises(InvalidRequest) as caught:
        banned_sequences(["a", "C"], Tokenizer(_nothing_left()))
    assert [violation.field for violation in caught.value.violations] == ["sampling.banned_words[1]"]


def _nothing_left() -> Library:
    library = Library(models.BPE(vocab={"a": 0}, merges=[]))
    library.decoder = decoders.Fuse()
    return library
