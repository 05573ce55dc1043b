"""Tokens as HTML: each in the colour of its surprise, with what might have stood in its place."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape

from rhapsode_client import TokenLogprob

MOST_SURPRISING = 10.0
"""Bits of surprise from which on the colour no longer changes: one chance in about a thousand."""

_VISIBLE = str.maketrans({" ": "\u2423", "\n": "\u23ce", "\t": "\u21e5"})
_NO_TEXT = "\u220e"


@dataclass(frozen=True, slots=True)
class Piece:
    """Tokens that make whole characters together; nearly always one."""

    tokens: tuple[TokenLogprob, ...]

    @property
    def text(self) -> str:
        """What it adds to the completion."""
        return _decoded(b"".join(token.text for token in self.tokens))

    @property
    def surprise(self) -> float:
        """Bits: -log2 of the probability of its tokens."""
        return sum(-(token.logprob or 0.0) for token in self.tokens) / math.log(2)


class Pieces:
    """Tokens as they come -> pieces of whole characters."""

    def __init__(self) -> None:
        self._waiting: list[TokenLogprob] = []

    def take(self, tokens: Iterable[TokenLogprob]) -> list[Piece]:
        """The pieces that these tokens complete."""
        pieces = []
        for token in tokens:
            self._waiting.append(token)
            if _is_whole(b"".join(each.text for each in self._waiting)):
                pieces += self.rest()
        return pieces

    def rest(self) -> list[Piece]:
        """What waits for bytes that no longer come, as a piece."""
        pieces = [Piece(tuple(self._waiting))] if self._waiting else []
        self._waiting.clear()
        return pieces


def as_html(piece: Piece, *, is_cut: bool = False) -> str:
    """A span in the colour of the piece's surprise, with its tooltip; struck out if it is cut off."""
    share = min(piece.surprise / MOST_SURPRISING, 1.0)
    rows = "".join(_place(token) for token in piece.tokens)
    text = escape(piece.text) or f'<span class="no-text">{_NO_TEXT}</span>'
    kind = "piece cut" if is_cut else "piece"
    return f'<span class="{kind}" style="--surprise: {share:.3f}">{text}<span class="odds">{rows}</span></span>'


def _place(token: TokenLogprob) -> str:
    """A token and its candidates, likeliest first."""
    choices = [(each.token_id, each.text, each.logprob) for each in token.candidates]
    if token.token_id not in [token_id for token_id, _, _ in choices] and token.logprob is not None:
        choices.append((token.token_id, token.text, token.logprob))
    head = f"{_shown(token.text)} <small>rank {token.rank}, id {token.token_id}</small>"
    rows = "".join(_row(text, logprob, token_id == token.token_id) for token_id, text, logprob in choices)
    return f'<span class="place">{head}</span>{rows}'


def _row(text: bytes, logprob: float, chosen: bool) -> str:
    probability = math.exp(logprob)
    kind = "candidate chosen" if chosen else "candidate"
    return (
        f'<span class="{kind}" style="--probability: {probability:.4f}">'
        f"<b>{_shown(text)}</b><i></i><em>{_percent(probability)}</em></span>"
    )


def _percent(probability: float) -> str:
    return f"{probability:.1%}" if probability >= 0.001 else "&lt;0.1%"


def _shown(text: bytes) -> str:
    """A token's text with its spaces to be seen; bytes that are no character in hexadecimal."""
    if not text:
        return _NO_TEXT
    if not _is_whole(text):
        return escape(" ".join(f"{byte:02x}" for byte in text))
    return escape(_decoded(text).translate(_VISIBLE))


def _is_whole(text: bytes) -> bool:
    """Whether no further byte could change how `text` reads."""
    if not text:
        return True
    # A character of UTF-8 has four bytes at most.
    for length in range(1, min(4, len(text)) + 1):
        lead = text[-length]
        if lead & 0xC0 != 0x80:
            return length >= _sequence_length(lead)
    return True


def _sequence_length(lead: int) -> int:
    """Bytes of the character that begins with `lead`."""
    return 1 + (lead >= 0xC0) + (lead >= 0xE0) + (lead >= 0xF0)


def _decoded(text: bytes) -> str:
    return text.decode("utf-8", errors="replace")
