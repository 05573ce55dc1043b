"""A completion's text from ids to deltas, against decoding everything at once and searching it with str.find."""

from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from rhapsode_server.text.stream import TextStream
from rhapsode_server.text.tokenizer import Tokenizer
from support.fuzzing import examples

Cut = Callable[[st.DataObject, Sequence[int]], list[list[int]]]


def deltas(stream: TextStream, parts: Sequence[Sequence[int]]) -> list[str]:
    return [*(stream.push(part).text for part in parts), stream.finish().text]


def first_stop(text: str, stops: Sequence[str]) -> tuple[int, int] | None:
    """(end, start) of the stop that ends first; of several, the longest."""
    found = ((start + len(stop), start) for stop in stops if (start := text.find(stop)) >= 0)
    return min(found, default=None)


def held_back(text: str, stops: Sequence[str]) -> int:
    """The length of the longest tail that a stop begins with."""
    return max((n for stop in stops for n in range(1, len(stop)) if text.endswith(stop[:n])), default=0)


def draw_stops(data: st.DataObject, text: str) -> list[str]:
    """Some from the text itself, with what overlaps them, begins them and goes on after them; some at random."""
    stops = data.draw(st.lists(st.text(min_size=1, max_size=3), max_size=2), label="random stops")
    for _ in range(data.draw(st.integers(0, 2))):
        start = data.draw(st.integers(0, max(len(text) - 1, 0)))
        length = data.draw(st.integers(1, 8))
        stop = text[start : start + length]
        family = [stop, stop[:-1], stop[1:], text[start : start + length + 2], stop + "!", stop * 2]
        stops += data.draw(st.lists(st.sampled_from(family), max_size=3))
    return [stop for stop in stops if stop]


def plain_text(tokenizer: Tokenizer, prompt: Sequence[int], ids: Sequence[int], skip: bool) -> str:
    """What `ids` add to the text of a prompt that ends with a whole character."""
    whole = tokenizer.decode([*prompt, *ids], skip_special_tokens=skip)
    return whole.removeprefix(tokenizer.decode(prompt, skip_special_tokens=skip))


@settings(max_examples=examples(150), deadline=None)
@given(data=st.data(), skip=st.booleans(), include_stop=st.booleans())
def test_deltas_are_the_offline_text_up_to_the_first_stop(
    concatenating: Any, cut: Cut, data: st.DataObject, skip: bool, include_stop: bool
) -> None:
    tokenizer = concatenating.tokenizer
    prompt = tokenizer.encode(data.draw(concatenating.texts, label="prompt"))
    ids = data.draw(concatenating.ids, label="ids")
    text = plain_text(tokenizer, prompt, ids, skip)
    stops = draw_stops(data, text)
    found = first_stop(text, stops)
    wanted = text if found is None else text[: found[0] if include_stop else found[1]]
    for parts in (cut(data, ids), [ids], [[i] for i in ids]):
        stream = TextStream(tokenizer, prompt, stops, skip, include_stop=include_stop)
        assert "".join(deltas(stream, parts)) == wanted


@settings(max_examples=examples(100), deadline=None)
@given(data=st.data(), include_stop=st.booleans())
def test_only_what_may_become_a_stop_is_held_back(concatenating: Any, data: st.DataObject, include_stop: bool) -> None:
    tokenizer, ids = concatenating.tokenizer, data.draw(concatenating.ids)
    known = [TextStream(tokenizer, [], [], False).push(ids[:count]).text for count in range(len(ids) + 1)]
    stops = draw_stops(data, known[-1])
    stream = TextStream(tokenizer, [], stops, False, include_stop=include_stop)
    outs = accumulate(stream.push([token_id]).text for token_id in ids)
    for text, out in zip(known[1:], outs, strict=True):
        if (found := first_stop(text, stops)) is not None:
            assert out == text[: found[0] if include_stop else found[1]]
        else:
            assert out == text[: len(text) - held_back(text, stops)]


@settings(max_examples=examples(150), deadline=None)
@given(data=st.data(), skip=st.booleans())
def test_a_prompt_that_ends_anywhere_is_never_told_again(
    concatenating: Any, cut: Cut, data: st.DataObject, skip: bool
) -> None:
    tokenizer = concatenating.tokenizer
    ids = tokenizer.encode(data.draw(concatenating.texts, label="text").replace("\ufffd", ""))
    middle = data.draw(st.integers(0, len(ids)))
    prompt, completion = ids[:middle], ids[middle:]
    whole = tokenizer.decode(ids, skip_special_tokens=skip)
    before = tokenizer.decode(prompt, skip_special_tokens=skip)
    text = "".join(deltas(TextStream(tokenizer, prompt, [], skip), cut(data, completion)))
    if whole.startswith(before):
        assert before + text == whole
        return
    # The prompt ends inside of a character: its bytes there are one U+FFFD, and those that follow another.
    shared = before[:-1]
    assert before == shared + "\ufffd"
    assert whole.startswith(shared)
    assert text in {"\ufffd" + whole[len(shared) + 1 :], ""}
    assert text or not any(map(tokenizer.token_bytes, tokenizer.visible_ids(completion, skip_special_tokens=skip)))


@settings(max_examples=examples(150), deadline=None)
@given(data=st.data())
def test_spans_cover_the_text_in_order_and_ids_lead_back(concatenating: Any, data: st.DataObject) -> None:
    tokenizer = concatenating.tokenizer
    text = data.draw(concatenating.texts)
    raw, pieces = text.encode(), tokenizer.encode_pieces(text)
    assert [piece.id for piece in pieces] == tokenizer.encode(text)
    assert [piece.start for piece in pieces] == sorted(piece.start for piece in pieces)
    assert all(0 <= piece.start <= piece.end <= len(raw) for piece in pieces)
    assert all(before.end >= after.start for before, after in pairwise(pieces))
    if raw:
        assert (pieces[0].start, pieces[-1].end) == (0, len(raw))
    if tokenizer.decode([piece.id for piece in pieces], skip_special_tokens=False) == text:
        assert b"".join(raw[piece.start : piece.end] for piece in pieces) == raw
        spelled = [tokenizer.token_bytes(piece.id) for piece in pieces]
        assert [raw[piece.start : piece.end] for piece in pieces][1:] == spelled[1:]


@settings(max_examples=examples(200), deadline=None)
@given(data=st.data())
def test_texts_that_the_tokenizer_keeps_come_back(concatenating: Any, data: st.DataObject) -> None:
    text = data.draw(concatenating.kept_texts)
    tokenizer = concatenating.tokenizer
    assert tokenizer.decode(tokenizer.encode(text), skip_special_tokens=False) == text
