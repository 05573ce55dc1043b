import pytest
from hypothesis import given
from hypothesis import strategies as st
from rhapsode_trainer.evaluation.quality import measure_form, measure_quality, rhyme_ending

SONNET = """Shall I compare thee to a summer's day?
Thou art more lovely and more temperate:
Rough winds do shake the darling buds of May,
And summer's lease hath all too short a date;"""


def test_distinct_n_grams() -> None:
    quality = measure_quality(["The cat sat.", "the cat ran."])
    assert quality.distinct_1 == 5 / 8, "the, cat, sat, ran and the full stop"
    assert quality.distinct_2 == 5 / 6
    assert quality.distinct_3 == 4 / 4


def test_a_loop_is_repetition_and_a_sentence_is_not() -> None:
    assert measure_quality(["one two three four five six seven"]).repetition == 0
    assert measure_quality(["and then " * 50]).repetition == pytest.approx(95 / 97)
    assert measure_quality(["!" * 40]).repetition > 0.9
    assert measure_quality(["the same four words", "the same four words"]).repetition == 0, "within a text only"


def test_emptiness_and_length() -> None:
    quality = measure_quality(["", " \n", "...", "it's two"])
    assert (quality.texts, quality.empty, quality.words) == (4, 0.75, 0.5)
    assert measure_quality([""]).distinct_1 == 0


@given(st.lists(st.text(), min_size=1, max_size=5))
def test_shares_are_shares(texts: list[str]) -> None:
    quality = measure_quality(texts)
    shares = (quality.distinct_1, quality.distinct_2, quality.distinct_3, quality.repetition, quality.empty)
    assert all(0 <= share <= 1 for share in shares)
    assert 0 <= measure_form(texts).rhyme <= 1


def test_nothing_to_measure_is_refused() -> None:
    for measure in (measure_quality, measure_form):
        with pytest.raises(ValueError, match="texts"):
            measure([])


def test_form_of_a_poem() -> None:
    form = measure_form([SONNET])
    assert form.lines == 4
    assert form.words_per_line == 33 / 4
    assert form.characters_per_line == sum(map(len, SONNET.splitlines())) / 4
    assert form.rhyme == 1.0, "day and May, temperate and date"


def test_lines_without_words_do_not_count_and_texts_without_lines_do() -> None:
    form = measure_form(["a line\n\n---\nanother one", ""])
    assert form.lines == 1.0
    assert measure_form([""]).words_per_line == 0


@pytest.mark.parametrize(
    ("lines", "rhyme"),
    [
        ("the night\nthe light", 1.0),
        ("the night\nthe night", 0.0),
        ("the night\nthe day", 0.0),
        ("night\na\nb\nlight", 0.5),
        ("night\na\nb\nc\nlight", 0.0),
    ],
)
def test_rhymes_are_near_and_between_different_words(lines: str, rhyme: float) -> None:
    assert measure_form([lines]).rhyme == rhyme


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("night", "light", True),
        ("love", "above", True),
        ("sky", "by", True),
        ("happy", "snappy", True),
        ("happy", "sky", False),
        ("me", "be", True),
        ("name", "home", False),
        ("hmm", "night", False),
    ],
)
def test_endings_by_spelling(first: str, second: str, same: bool) -> None:
    assert (rhyme_ending(first) == rhyme_ending(second)) is same


def test_accents_and_case_do_not_matter() -> None:
    assert measure_form(["le caf\u00e9\nthe CAFE"]).rhyme == 0.0, "the same word"
    assert measure_form(["his pass\u00e9d NIGHT\nthe Light"]).rhyme == 1.0
