"""What each token adds to a text, in bytes.

Most decoders of a `tokenizer.json` only concatenate: the bytes of a text are the bytes of its tokens, one after the
other. Then a token's bytes are known once and for all, and decoding is a join. Two families do so:

    ByteLevel            each character of a piece stands for one byte (the alphabet of GPT-2)
    Replace, Metaspace,  a piece is text in which one character, mostly U+2581, stands for a space, or it is one byte
    ByteFallback, ...    such as `<0x0A>`; a space at the very start of the text may be left out

The others (WordPiece, CTC, no decoder, ...) look at neighbours: `read_spelling` answers None for them.
"""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Spelling = Callable[[str, bool], bytes]
"""The bytes of a piece; the flag says whether it begins the text."""

_BYTE_PIECE = re.compile("<0x([0-9A-Fa-f]{2})>")
_METASPACE_DECODERS = re.compile("((Replace|Metaspace) )*(ByteFallback )?(Fuse (Strip )?)?")


def _byte_alphabet() -> str:
    """The character for each byte in GPT-2's alphabet: itself where printable, else one from U+0100 on, in order."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return "".join(chr(byte if byte in printable else next(others)) for byte in range(256))


BYTE_ALPHABET = _byte_alphabet()

# Characters below U+0100 outside the alphabet must not pass for the byte of their number.
_BYTE_OF_CHARACTER = dict.fromkeys(range(256), 0xFFFF) | {ord(char): i for i, char in enumerate(BYTE_ALPHABET)}


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenBytes:
    """A vocabulary as bytes, for decoders that concatenate.

    `anywhere` has every token; `at_start` those that read otherwise where they begin a text.
    """

    anywhere: Mapping[int, bytes]
    at_start: Mapping[int, bytes]

    def join(self, ids: Sequence[int], *, at_start: bool) -> bytes:
        """The bytes of `ids`, which begin the text or not. Raises KeyError for an id without a token."""
        return b"".join(self.parts(ids, at_start=at_start))

    def parts(self, ids: Sequence[int], *, at_start: bool) -> list[bytes]:
        """What each of `ids` adds to their text."""
        parts = [self.anywhere[token_id] for token_id in ids]
        if at_start:
            first = next((index for index, part in enumerate(parts) if part), None)
            if first is not None:
                parts[first] = self.at_start.get(ids[first], parts[first])
        return parts

    def shown(self, hidden_ids: Collection[int]) -> list[bytes]:
        """`anywhere` by index, with nothing for `hidden_ids` and for ids that no token has.

        A list, because tokens are looked up one by one, and an entry of a large dictionary is seldom in the cache.
        """
        shown = [b""] * (max(self.anywhere, default=-1) + 1)
        for token_id in self.anywhere.keys() - hidden_ids:
            shown[token_id] = self.anywhere[token_id]
        return shown


def tabulate(pieces: Mapping[int, str], spelling: Spelling, literal_ids: frozenset[int]) -> TokenBytes:
    """The bytes of all `pieces` by id. Those of `literal_ids` stand for themselves, whatever the spelling."""
    anywhere = {i: piece.encode() if i in literal_ids else spelling(piece, False) for i, piece in pieces.items()}
    at_start = {i: spelling(piece, True) for i, piece in pieces.items() if i not in literal_ids}
    return TokenBytes(
        anywhere=anywhere,
        at_start={i: data for i, data in at_start.items() if data != anywhere[i]},
    )


def read_spelling(decoder: Mapping[str, Any] | None) -> Spelling | None:
    """How the `decoder` of a tokenizer.json spells pieces, or None where it does not just concatenate."""
    if decoder is None:
        return None
    steps = flatten(decoder, "decoders")
    if [step["type"] for step in steps] == ["ByteLevel"]:
        return _byte_level
    return _metaspace_spelling(steps)


def flatten(component: Mapping[str, Any] | None, key: str) -> list[Mapping[str, Any]]:
    """The steps of a tokenizer.json component; a `Sequence` lists its own under `key`."""
    if component is None:
        return []
    if component["type"] != "Sequence":
        return [component]
    return [step for part in component[key] for step in flatten(part, key)]


def _byte_level(piece: str, at_start: bool) -> bytes:
    try:
        return piece.translate(_BYTE_OF_CHARACTER).encode("latin-1")
    except UnicodeEncodeError:
        return piece.encode()


def _metaspace_spelling(steps: Sequence[Mapping[str, Any]]) -> Spelling | None:
    names = "".join(f"{step['type']} " for step in steps)
    if not _METASPACE_DECODERS.fullmatch(names) or not all(_concatenates(step) for step in steps):
        return None
    return _MetaspaceSpelling(
        replacements=tuple(_replacement(step) for step in steps if step["type"] in {"Replace", "Metaspace"}),
        byte_fallback="ByteFallback" in names,
        strips_space=any(step["type"] == "Strip" and step["start"] == 1 for step in steps),
    )


def _concatenates(step: Mapping[str, Any]) -> bool:
    match step["type"]:
        case "Replace":
            return "String" in step["pattern"]
        case "Strip":
            return bool(step["content"] == " " and step["start"] <= 1 and step["stop"] == 0)
    return True


def _replacement(step: Mapping[str, Any]) -> tuple[str, str, str]:
    """(what is replaced, by what, by what in the first token)"""
    if step["type"] == "Replace":
        return step["pattern"]["String"], step["content"], step["content"]
    return step["replacement"], " ", " " if step["prepend_scheme"] == "never" else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _MetaspaceSpelling:
    replacements: tuple[tuple[str, str, str], ...]
    byte_fallback: bool
    strips_space: bool

    def __call__(self, piece: str, at_start: bool) -> bytes:
        for old, new, new_at_start in self.replacements:
            piece = piece.replace(old, new_at_start if at_start else new)
        byte = _BYTE_PIECE.fullmatch(piece) if self.byte_fallback else None
        data = bytes([int(byte[1], 16)]) if byte else piece.encode()
        return data.removeprefix(b" ") if at_start and self.strips_space else data
