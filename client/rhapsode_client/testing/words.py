"""A tokenizer that needs no training: a token is a word with the white space before it."""

import re
import threading
from collections.abc import Iterable
from itertools import accumulate

from rhapsode.v1.generation_pb2 import Token

_WORD = re.compile(r"\s*\S+|\s+")


def split(text: str) -> list[str]:
    """The words of `text`, which make it up again when joined."""
    return _WORD.findall(text)


class Vocabulary:
    """Ids of words, given out as they are seen, from 1. Threads may share it."""

    def __init__(self) -> None:
        self._ids: dict[str, int] = {}
        self._lock = threading.Lock()

    def id_of(self, word: str) -> int:
        """The word's id, a new one if need be."""
        with self._lock:
            return self._ids.setdefault(word, len(self._ids) + 1)

    def tokens(self, text: str) -> list[Token]:
        """The words of `text` with their places."""
        words = split(text)
        ends = list(accumulate(len(word.encode()) for word in words))
        return [
            Token(id=self.id_of(word), piece=word, start=start, end=end)
            for word, start, end in zip(words, [0, *ends], ends, strict=False)
        ]

    def text(self, ids: Iterable[int]) -> str:
        """The words with these ids, joined; U+FFFD for an id that no word has."""
        with self._lock:
            words = {number: word for word, number in self._ids.items()}
        return "".join(words.get(each, "\ufffd") for each in ids)
