import sys
from functools import reduce

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rhapsode_trainer.data.cleaning import STEPS, clean
from rhapsode_trainer.errors import ConfigError


@pytest.mark.parametrize(
    ("step", "text", "cleaned"),
    [
        ("ftfy", "sch\u00c3\u00b6n \u201cso\u201d", 'sch\u00f6n "so"'),
        ("bracket_tags", "[ WP ] A king .", "A king ."),
        ("bracket_tags", "[WP][ eu ]  A king .", "A king ."),
        ("bracket_tags", "A [ WP ] king [ sic ]", "A [ WP ] king [ sic ]"),
        ("bracket_tags", "[ King ] Lear", "[ King ] Lear"),
        ("newline_tokens", "one . <newline> <newline> Two .<newline>", "one .\n\nTwo .\n"),
        ("collapse_spaces", " a \t b\u00a0c \n\n d ", " a b c\n\nd "),
        ("lowercase", "A King", "a king"),
        ("strip", "\n a b \n", "a b"),
        ("lemmatize", "The mice don't run,  and he's\n\ngone .", "The mouse don't run,  and he's\n\ngo ."),
    ],
)
def test_a_step_does_what_its_name_says(step: str, text: str, cleaned: str) -> None:
    assert STEPS[step](text) == cleaned


QUICK = [name for name in STEPS if name != "lemmatize"]


@given(
    st.text(alphabet=st.sampled_from("aZ[] \t\n\u00e9\u201c<newline>")), st.lists(st.sampled_from(QUICK), max_size=4)
)
def test_steps_are_pure_and_apply_in_order(text: str, steps: list[str]) -> None:
    once = clean(text, steps)
    assert once == clean(text, steps) == reduce(lambda value, name: STEPS[name](value), steps, text)


@pytest.mark.parametrize("step", ["bracket_tags", "collapse_spaces", "lowercase", "strip"])
@given(text=st.text(alphabet=st.sampled_from("aZWP[] \t\n\u00e9")))
def test_what_is_clean_stays_as_it_is(step: str, text: str) -> None:
    once = clean(text, [step])
    assert clean(once, [step]) == once


@pytest.mark.parametrize(
    ("step", "module", "line"),
    [
        ("ftfy", "ftfy", "pip install 'ftfy'"),
        ("lemmatize", "spacy", "pip install 'rhapsode-trainer[spacy]'"),
        ("lemmatize", "spacy_lookups_data", "pip install 'rhapsode-trainer[spacy]'"),
    ],
)
def test_a_missing_package_is_named_with_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, step: str, module: str, line: str
) -> None:
    from rhapsode_trainer.data import cleaning

    cleaning._lemmatizer.cache_clear()
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=module) as raised:
        clean("text", [step])
    assert line in str(raised.value)
