"""Decoding and stop strings together: nothing depends on how tokens arrive."""

from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from rhapsode_server.text.incremental import IncrementalDecoder
from rhapsode_server.text.stream import TextDelta, TextStream
from rhapsode_server.text.tokenizer import Tokenizer
from support.fuzzing import examples

Cut = Callable[[st.DataObject, Sequence[int]], list[list[int]]]


def run(stream: TextStream, parts: Sequence[Sequence[int]]) -> TextDelta:
    """The sum of all deltas."""
    deltas = [*map(stream.push, parts), stream.finish()]
    matched = [delta.matched_stop for delta in deltas if delta.matched_stop is not None]
    assert len(matched) <= 1
    return TextDelta(
        text="".join(delta.text for delta in deltas),
        matched_stop=matched[0] if matched else None,
        num_tokens_used=sum(delta.num_tokens_used for delta in deltas),
    )


def expected(tokenizer: Tokenizer, prompt: Sequence[int], ids: Sequence[int], stops: Sequence[str]) -> TextDelta:
    """The same from whole texts: the fewest tokens whose text holds a stop, and the first to end in it."""

    def text_of(count: int) -> str:
        decoder = IncrementalDecoder(tokenizer, prompt, True)
        return decoder.push(ids[:count]) + (decoder.finish() if count > len(ids) else "")

    for count in range(len(ids) + 2):
        text = text_of(count)
        spans = [(start + len(s), start) for s in stops for start in range(len(text)) if text.startswith(s, start)]
        if spans:
            end, start = min(spans)
            return TextDelta(text=text[:start], matched_stop=text[start:end], num_tokens_used=min(count, len(ids)))
    return TextDelta(text=text, matched_stop=None, num_tokens_used=len(ids))


@settings(max_examples=examples(200), deadline=None)
@given(data=st.data())
def test_text_stop_and_usage_are_the_same_however_ids_arrive(concatenating: Any, cut: Cut, data: st.DataObject) -> None:
    tokenizer = concatenating.tokenizer
    prompt, ids = data.draw(concatenating.ids, label="prompt"), data.draw(concatenating.ids, label="ids")
    text = tokenizer.decode(ids)
    spans = st.tuples(st.integers(0, max(len(text) - 1, 0)), st.integers(1, 5)).map(lambda s: text[s[0] :][: s[1]])
    stops = data.draw(st.lists((spans | st.just("\ufffd") | st.text(min_size=1, max_size=2)).filter(bool), max_size=3))
    wanted = expected(tokenizer, prompt, ids, stops)
    for parts in ([ids], [[i] for i in ids], cut(data, ids)):
        assert run(TextStream(tokenizer, prompt, stops, True), parts) == wanted


@settings(max_examples=examples(30), deadline=None)
@given(data=st.data(), stops=st.lists(st.sampled_from(["sea", "a s", " ", ".", "do|", "b"]), max_size=2))
def test_stops_work_with_decoders_that_look_at_neighbours(
    neighbourly: Any, cut: Cut, data: st.DataObject, stops: list[str]
) -> None:
    tokenizer = neighbourly.tokenizer
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocabulary_size - 1), max_size=12))
    assert run(TextStream(tokenizer, [2], stops, True), cut(data, ids)) == expected(tokenizer, [2], ids, stops)


def test_ids_and_usage_are_cut_at_the_token_that_completes_the_stop(gpt2_like: Any) -> None:
    ids = gpt2_like.tokenizer.encode("The sea is a sea of words")
    pieces = [gpt2_like.tokenizer.decode([i]) for i in ids]
    num_used = next(n for n in range(len(ids)) if "a s" in "".join(pieces[:n]))
    stream = TextStream(gpt2_like.tokenizer, [], ["a s"], True)
    assert stream.push(ids) == TextDelta(text="The sea is ", matched_stop="a s", num_tokens_used=num_used)
    assert stream.push(ids) == stream.finish() == TextDelta(text="", matched_stop=None, num_tokens_used=0)


def test_a_tail_that_might_have_become_a_stop_comes_out_at_the_end(gpt2_like: Any) -> None:
    stream = TextStream(gpt2_like.tokenizer, [], ["sea of words!"], True)
    ids = gpt2_like.tokenizer.encode("The sea of words")
    assert stream.push(ids) == TextDelta(text="The ", matched_stop=None, num_tokens_used=len(ids))
    assert stream.finish() == TextDelta(text="sea of words", matched_stop=None, num_tokens_used=0)
    assert stream.finish().text == ""
