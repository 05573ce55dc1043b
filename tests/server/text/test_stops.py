"""Stop strings against a search that knows the whole text."""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rhapsode_server.text.stops import StopStrings
from support.fuzzing import examples

ALPHABETS = st.sampled_from(["a", "ab", "abc", "\n #", "é\u0301😀\u200d"])


def first_match(text: str, stops: Sequence[str]) -> tuple[int, int] | None:
    """(end, start) of the match that ends first, and of those the one that starts first."""
    spans = ((start + len(stop), start) for stop in stops for start in range(len(text)) if text.startswith(stop, start))
    return min(spans, default=None)


def longest_held(text: str, stops: Sequence[str]) -> str:
    prefixes = [stop[:length] for stop in stops for length in range(1, len(stop))]
    return max((prefix for prefix in prefixes if text.endswith(prefix)), key=len, default="")


@settings(max_examples=examples(500), deadline=None)
@given(data=st.data())
def test_the_first_stop_to_end_is_found_wherever_the_text_is_cut(data: st.DataObject) -> None:
    alphabet = data.draw(ALPHABETS)
    stops = data.draw(st.lists(st.text(alphabet, min_size=1, max_size=6), max_size=5))
    parts = data.draw(st.lists(st.text(alphabet, max_size=5), max_size=10))
    watch = StopStrings(stops)
    seen = out = ""
    for part in parts:
        seen += part
        text, stop = watch.push(part)
        out += text
        match = first_match(seen, stops)
        if match is not None:
            end, start = match
            assert (out, stop) == (seen[:start], seen[start:end])
            assert watch.push(part) == ("", None)
            assert watch.finish() == ""
            return
        assert (out + longest_held(seen, stops), stop) == (seen, None)
    assert out + watch.finish() == seen


@pytest.mark.parametrize(
    ("stops", "text", "expected"),
    [
        (["abcd", "bc"], "abcd", ("a", "bc")),
        (["bc", "abc"], "abc", ("", "abc")),
        (["aab"], "aaab", ("a", "aab")),
        (["abab", "bb"], "ababb", ("", "abab")),
        (["\n\n", "\n\nUser"], "one\n\nUser", ("one", "\n\n")),
        (["é"], "e\u0301", ("e\u0301", None)),
    ],
)
def test_overlapping_stops(stops: list[str], text: str, expected: tuple[str, str | None]) -> None:
    assert StopStrings(stops).push(text) == expected


def test_only_a_true_prefix_is_held_back() -> None:
    watch = StopStrings(["User:", "erase"])
    assert watch.push("a User") == ("a ", None)
    assert watch.push("s") == ("Users", None)
    assert watch.push(" er") == (" ", None)
    assert watch.push("as") == ("", None)
    assert watch.finish() == "eras"
    assert watch.finish() == ""


def test_without_stops_everything_goes_out() -> None:
    assert StopStrings([]).push("all of it") == ("all of it", None)


def test_an_empty_stop_is_refused() -> None:
    with pytest.raises(ValueError, match="stop_strings: a stop string must not be empty"):
        StopStrings(["a", ""])
