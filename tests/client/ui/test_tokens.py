"""Tokens as HTML."""

import math
import re
from html.parser import HTMLParser

from hypothesis import given
from hypothesis import strategies as st
from rhapsode_client import Candidate, TokenLogprob
from rhapsode_client.ui.tokens import Piece, Pieces, as_html


def token(text: bytes, probability: float = 0.5, *candidates: Candidate, token_id: int = 1) -> TokenLogprob:
    return TokenLogprob(token_id=token_id, logprob=math.log(probability), rank=1, text=text, candidates=candidates)


class Read(HTMLParser):
    """The texts and tags of a piece."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.texts: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


@given(st.text(), st.data())
def test_pieces_are_whole_characters_however_tokens_cut_them(text: str, data: st.DataObject):
    encoded = text.encode("utf-8", errors="replace")
    cuts = sorted(data.draw(st.lists(st.integers(0, len(encoded)), max_size=8)))
    tokens = [token(encoded[a:b]) for a, b in zip([0, *cuts], [*cuts, len(encoded)], strict=True)]
    pieces = Pieces()
    found = [piece for each in tokens for piece in pieces.take([each])]
    assert pieces.rest() == []
    assert "".join(piece.text for piece in found) == encoded.decode()
    assert [each for piece in found for each in piece.tokens] == tokens


@given(st.lists(st.binary(max_size=6)))
def test_no_token_is_lost_whatever_its_bytes(texts: list[bytes]):
    tokens = [token(text) for text in texts]
    pieces = Pieces()
    found = [*pieces.take(tokens), *pieces.rest()]
    assert [each for piece in found for each in piece.tokens] == tokens


@given(st.binary(max_size=20))
def test_a_token_can_say_nothing_to_the_browser(text: bytes):
    hostile = b"<script>'\"&" + text
    read = Read(as_html(Piece((token(hostile, 0.5, Candidate(token_id=2, logprob=-1.0, text=hostile)),))))
    assert set(read.tags) <= {"span", "small", "b", "i", "em"}
    assert any("<script>" in each for each in read.texts)


def test_the_colour_is_the_surprise():
    def share(probability: float) -> str:
        match = re.search(r"--surprise: ([\d.]+)", as_html(Piece((token(b"a", probability),))))
        assert match
        return match[1]

    assert share(1.0) == "0.000"
    assert share(0.5) == "0.100"
    assert share(2**-10) == share(2**-20) == "1.000"


def test_the_token_itself_is_among_what_might_have_stood_there():
    others = [Candidate(token_id=number, logprob=math.log(0.4), text=b" sea") for number in (7, 8)]
    texts = Read(as_html(Piece((token(b"\n", 0.0004, *others),)))).texts
    assert texts == ["\n", "\u23ce ", "rank 1, id 1", "\u2423sea", "40.0%", "\u2423sea", "40.0%", "\u23ce", "<0.1%"]


def test_what_adds_no_text_and_what_is_half_a_character_can_be_seen():
    assert Read(as_html(Piece((token(b""),)))).texts[0] == "\u220e"
    halves = Read(as_html(Piece((token(b"\xe2\x82"), token(b"\xac"))))).texts
    assert halves[0] == "\u20ac"
    assert "e2 82 " in halves
