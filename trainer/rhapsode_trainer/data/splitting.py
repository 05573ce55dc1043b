"""Which part of the corpus a document belongs to, decided by its text alone.

It never moves when others come or go, and its duplicates stay beside it.
"""

import hashlib
from enum import Enum


class Part(Enum):
    """The three parts of a corpus."""

    TRAIN = "train"
    VALIDATION = "validation"
    HELD_OUT = "held_out"


def is_held_out(text: str, share: float, salt: str) -> bool:
    """Whether the text belongs to the share that training never sees. A larger share only adds documents."""
    return _place(text, salt) < share * 2**64


def part_of(text: str, *, held_out: float, validation: float, salt: str) -> Part:
    """The part of a text, where `held_out` and `validation` are shares of all documents."""
    if is_held_out(text, held_out, salt):
        return Part.HELD_OUT
    return Part.VALIDATION if is_held_out(text, held_out + validation, salt) else Part.TRAIN


def _place(text: str, salt: str) -> int:
    """A number of 64 bits, evenly spread over texts."""
    return int.from_bytes(hashlib.sha256((salt + text).encode()).digest()[:8], "big")
