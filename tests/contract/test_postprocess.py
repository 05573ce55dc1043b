import doctest
import json
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rhapsode_contract.postprocess import STEPS, Pipeline, pipeline, sentences, steps

# Letters, marks, blanks, quotation marks and brackets of several scripts, and what stacks or changes length in them.
ALPHABET = (
    "aBi I.!?\u2026\"'\u201c\u201d\u2019\u00ab\u00bb()`\n\r\t\u00a0\u2028\u3000\u3002\uff01\u300d\u0301\u0130"
    "\u00df\u01c6\ufb01\u0964\u10d0\U0001f600\u200d&;<-3_"
)
TEXTS = st.text(ALPHABET, max_size=40) | st.text(max_size=40)
IDEMPOTENT = [name for name in STEPS if name not in ("repeated_sentences", "ftfy")]
HOSTILE = {
    "marks": "." * 1_000_000 + "x",
    "sentences": "no. " * 250_000,
    "closing": '."' * 500_000 + "x",
    "opening": ". " + '"' * 1_000_000,
    "blanks behind a quotation": '."' + " " * 1_000_000 + "x",
    "full-width": "\u3002" * 1_000_000,
    "initials": "A." * 500_000,
    "pronouns": "i " * 500_000,
    "a loop": "I went on and on. " * 55_000,
}


def apply(name: str, text: str) -> str:
    return Pipeline([name]).apply(text)


@pytest.mark.parametrize("module", [steps, sentences, pipeline])
def test_the_examples_in_the_documentation_hold(module: ModuleType) -> None:
    failed, attempted = doctest.testmod(module)
    assert (failed, attempted > 0) == (0, True)


def test_every_step_has_an_example() -> None:
    functions = [getattr(steps, name, None) or getattr(steps, f"build_{name}") for name in STEPS]
    assert all(">>>" in function.__doc__ for function in functions)


@pytest.mark.parametrize("name", IDEMPOTENT)
def test_a_second_application_changes_nothing(name: str) -> None:
    @given(TEXTS)
    def check(text: str) -> None:
        once = apply(name, text)
        assert apply(name, once) == once

    check()


@given(TEXTS)
def test_steps_keep_what_they_do_not_name(text: str) -> None:
    assert apply("whitespace", text).split() == text.split()
    assert text.startswith(apply("last_sentence", text))
    assert len(apply("capitals", text)) == len(text)
    assert len(apply("repeated_sentences", text)) <= len(text)
    assert not set("\u2018\u2019\u201c\u201d") & set(apply("quotes", text))


@given(TEXTS)
def test_the_end_of_the_last_sentence_is_found_again(text: str) -> None:
    ends = list(sentences.sentence_ends(text))
    assert ends == sorted(set(ends))
    if ends:
        assert list(sentences.sentence_ends(text[: ends[-1]]))[-1] == ends[-1]


@given(st.lists(st.sampled_from(["I went on and on.", "No.", "She ran off then!", "\n\nAnd so it all ended?"])))
def test_no_sentence_is_left_twice(parts: list[str]) -> None:
    kept = apply("repeated_sentences", " ".join(parts))
    long = [part for part in parts if part != "No."]
    assert all(kept.count(part.strip()) == 1 for part in long)
    assert "No. No." not in kept


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("No end in sight", "No end in sight"),
        ("", ""),
        ("All done.", "All done."),
        ('He said, "Go." Then', 'He said, "Go."'),
        ("At 3.14 I st", "At 3.14 I st"),
        ("We met J. R. Tolkien. He w", "We met J. R. Tolkien."),
        ("It is I. You kn", "It is I."),
        ("Ok! Mr. Sm", "Ok!"),
        ("Seen by the U.S. army. Tr", "Seen by the U.S. army."),
        ("Well... so be it. An", "Well... so be it."),
        ("Well... So be", "Well..."),
        ('"Stop!" she cried', '"Stop!" she cried'),
        ("\u6211\u8d70\u4e86\u3002\u5979\u8bf4", "\u6211\u8d70\u4e86\u3002"),
        ("\u092f\u0939 \u0939\u0948\u0964 \u0935\u0939", "\u092f\u0939 \u0939\u0948\u0964"),
        ("\u0645\u0646 \u0623\u0646\u062a\u061f \u0623\u0646", "\u0645\u0646 \u0623\u0646\u062a\u061f"),
    ],
)
def test_the_last_sentence(text: str, expected: str) -> None:
    assert apply("last_sentence", text) == expected


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("capitals", "so did i, i.e. not him, i'm sure", "So did I, i.e. not him, I'm sure"),
        ("capitals", "\u00e9t\u00e9. \u00e0 moi! \u043d\u0435.", "\u00c9t\u00e9. \u00c0 moi! \u041d\u0435."),
        ("capitals", "\u00dfa. \u10d0\u10d1. 3 dogs", "\u00dfa. \u10d0\u10d1. 3 dogs"),
        ("capitals", '"go!" he said. (then) he left', '"Go!" he said. (Then) he left'),
        ("repeated_sentences", "A b c d e.\n\nNo.\n\na, B c d e!\n\nYes.", "A b c d e.\n\nNo.\n\nYes."),
        ("repeated_sentences", "No. Yes. No. Ok", "No. Yes. No. Ok"),
        ("repeated_sentences", "Go on then. Go on then. Go on", "Go on then. Go on"),
        ("quotes", "\u201e\u00abA\u00bb\u201c ```", '"\u00abA\u00bb" "`'),
        ("ftfy", "caf\u00c3\u00a9 \u201cx\u201d &lt;3", "caf\u00e9 \u201cx\u201d <3"),
        ("ftfy", "<b>&amp;</b>", "<b>&amp;</b>"),
    ],
)
def test_a_step(name: str, text: str, expected: str) -> None:
    assert apply(name, text) == expected


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_megabyte_takes_linear_time(text: str) -> None:
    start = time.process_time()
    for name in STEPS:
        apply(name, text)
    assert time.process_time() - start < 10  # a second or four at most; quadratic would be hours


@pytest.mark.parametrize(
    "text", ["&" + "amp;" * 100_000, "&#38;" + "#38;" * 80_000, "\x1b[" * 100_000 + "0m" * 100_000]
)
def test_nested_escapes_do_not_slow_ftfy_down(text: str) -> None:
    start = time.process_time()
    apply("ftfy", text)
    assert time.process_time() - start < 5


def test_steps_run_in_the_order_given() -> None:
    assert Pipeline(["last_sentence", "capitals"]).apply("a. b") == "A."
    assert Pipeline(["capitals", "last_sentence"]).apply("a. b") == "A. B"  # "A." is an initial now
    assert Pipeline(["last_sentence", "whitespace"]).apply(" One.  Two. th") == " One. Two."


def test_an_empty_pipeline_returns_the_text() -> None:
    assert Pipeline().is_empty
    assert not Pipeline(["quotes"]).is_empty
    assert Pipeline().apply(" \u201c x") == " \u201c x"


@given(st.lists(st.sampled_from(STEPS)))
def test_a_document_gives_its_pipeline_back(names: list[str]) -> None:
    document = Pipeline(names).as_document()
    assert Pipeline.from_document(json.loads(json.dumps(document))) == Pipeline(names)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ('{"schema_version": 1, "steps": ["quotes", "shout"]}', r"steps\[1\]: no step 'shout'; there are: ftfy, "),
        ('{"schema_version": 1, "steps": [3]}', r"steps\[0\]: no step 3"),
        ('{"schema_version": 1, "steps": [["quotes"]]}', r"steps\[0\]: no step \['quotes'\]"),
        ('{"schema_version": 1, "steps": "quotes"}', "steps: 'quotes' is not a list"),
        ('{"schema_version": 2, "steps": []}', "schema_version: 2 is not 1"),
        ('{"schema_version": true, "steps": []}', "schema_version: True is not 1"),
        ('{"steps": []}', "schema_version: missing"),
        ('{"schema_version": 1}', "steps: missing"),
        ('{"schema_version": 1, "steps": [], "order": 1}', "order: unknown field"),
        ("[]", "expected an object"),
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("\xff", "not JSON"),
    ],
)
def test_a_bad_document_is_refused_by_file_and_field(tmp_path: Path, content: str, complaint: str) -> None:
    path = tmp_path / "postprocess.json"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(ValueError, match=f"postprocess.json: {complaint}"):
        Pipeline.load(path)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"postprocess\.json: cannot be read: No such file"):
        Pipeline.load(tmp_path / "postprocess.json")


def test_a_missing_library_is_named_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ftfy", None)
    with pytest.raises(ValueError, match=r"steps\[0\]: .*pip install 'rhapsode-contract\[text\]'"):
        Pipeline.from_document({"schema_version": 1, "steps": ["ftfy"]})
    assert Pipeline(["quotes"]).apply("\u2019") == "'"


def test_a_step_does_not_import_what_it_does_not_need(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ftfy", None)
    others = Pipeline([name for name in STEPS if name != "ftfy"])
    assert others.apply("i ran.  i ran. th") == "I ran."
