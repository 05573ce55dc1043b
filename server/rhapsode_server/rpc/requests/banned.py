"""Banned words as the token sequences that must never be completed.

A word is banned alone and with a space before it, each as the tokenizer spells it at the beginning of a text and in the
middle of one (behind a line break). Byte-level BPE spells both alike; tokenizers that put a space before every text
(metaspace) spell the inside of a word in the middle of a text only.
"""

from collections.abc import Iterator, Sequence

from rhapsode_server.errors import FieldViolation, InvalidRequest
from rhapsode_server.text.tokenizer import Tokenizer

_BREAK = "\n"


def banned_sequences(words: Sequence[str], tokenizer: Tokenizer) -> tuple[tuple[int, ...], ...]:
    """Each sequence once. Raises InvalidRequest for a word of which the tokenizer leaves nothing."""
    line_break = tokenizer.encode(_BREAK)
    found: dict[tuple[int, ...], None] = {}
    for index, word in enumerate(words):
        sequences = _exact(word, list(_spellings(word, tokenizer, line_break)), tokenizer)
        if not sequences:
            raise InvalidRequest([FieldViolation(f"sampling.banned_words[{index}]", "has no tokens")])
        found |= dict.fromkeys(sequences)
    return tuple(found)


def _spellings(word: str, tokenizer: Tokenizer, line_break: list[int]) -> Iterator[tuple[int, ...]]:
    for text in (word, f" {word}"):
        yield tuple(tokenizer.encode(text))
        ids = tokenizer.encode(_BREAK + text)
        if ids[: len(line_break)] == line_break:
            yield tuple(ids[len(line_break) :])


def _exact(word: str, spellings: Sequence[tuple[int, ...]], tokenizer: Tokenizer) -> list[tuple[int, ...]]:
    """Those that stand for exactly the word, with or without the space: a tokenizer may have added another space.

    All of them where none does, as with a tokenizer that changes the case.
    """
    wanted = {word.encode(), f" {word}".encode()}
    sequences = [ids for ids in spellings if ids]
    return [ids for ids in sequences if b"".join(map(tokenizer.token_bytes, ids)) in wanted] or sequences
