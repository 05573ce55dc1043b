"""The lines of a batch."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rhapsode_client import GenerateOptions, InvalidRequest
from rhapsode_client.cli.batch.lines import Item, Line, item_id, lines_of, num_lines, read_item
from rhapsode_client.cli.batch.run import merged
from rhapsode_client.requests import generate_request

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
FIELDS = st.sampled_from([*GenerateOptions.__annotations__, "id", "prompt", "warmth"])


def line(number: int = 1, **fields: object) -> Line:
    return Line(number, json.dumps(fields))


def test_a_line_is_a_prompt_perhaps_an_id_and_options():
    assert read_item(line(7, prompt="The")) == Item(id=7, prompt="The", options={})
    options = {"temperature": 0.5, "stop": ["a"], "logit_bias": {"5": 1.5}, "json_schema": {}}
    read = read_item(line(prompt=[1, 2], id="x", **options))
    assert read == Item(id="x", prompt=[1, 2], options={**options, "logit_bias": {5: 1.5}})


@pytest.mark.parametrize(
    ("text", "field", "said"),
    [
        ("", "line", "is not JSON"),
        ("{", "line", "is not JSON"),
        ("[" * 100_000, "line", "is not JSON"),
        ('"The"', "line", "must be a JSON object"),
        ("{}", "prompt", "a text, a list of token ids or a list of messages"),
        ('{"prompt": 5}', "prompt", "a text, a list"),
        ('{"prompt": "x", "id": 1.5}', "id", "must be a text or a whole number, not 1.5"),
        ('{"prompt": "x", "id": true}', "id", "must be a text or a whole number"),
        ('{"prompt": "x", "warmth": 1, "zeal": 2}', "warmth", "no such option"),
        ('{"prompt": "x", "logit_bias": {"sea": 1}}', "logit_bias", "keys must be token ids"),
    ],
)
def test_what_is_wrong_with_a_line_is_said(text, field, said):
    with pytest.raises(InvalidRequest, match=said) as refused:
        read_item(Line(1, text))
    assert refused.value.violations[0].field == field


@given(st.dictionaries(FIELDS, JSON, max_size=4) | JSON, st.booleans())
def test_whatever_a_line_holds_it_is_a_request_or_refused(value, has_prompt):
    fields = {"prompt": "x", **value} if has_prompt and isinstance(value, dict) else value
    read = Line(3, json.dumps(fields))
    assert isinstance(item_id(read), str | int)
    try:
        item = read_item(read)
        generate_request(item.prompt, **item.options)
    except InvalidRequest:
        return
    assert item.id == item_id(read)


@pytest.mark.parametrize(
    ("text", "expected"),
    [('{"id": "a"}', "a"), ('{"id": 5}', 5), ('{"id": [1]}', 3), ('{"id": true}', 3), ("[1]", 3), ("{", 3)],
)
def test_a_bad_line_has_an_id_too(text, expected):
    assert item_id(Line(3, text)) == expected


def test_options_of_a_line_go_before_those_of_the_command():
    defaults = GenerateOptions(temperature=0.5, version=2, regex="a+")
    assert merged(defaults, {"temperature": 1.0}) == {"temperature": 1.0, "version": 2, "regex": "a+"}
    # Of these there is one at most.
    assert merged(defaults, {"alias": "previous", "choices": ["a"]}) == {
        "temperature": 0.5,
        "alias": "previous",
        "choices": ["a"],
    }


def test_lines_are_numbered_and_read_as_they_are(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_bytes(b"a\r\n\n  \nb\xff\nc")
    assert list(lines_of(path)) == [Line(1, "a"), Line(2, ""), Line(3, "  "), Line(4, "b\udcff"), Line(5, "c")]
    assert num_lines(path) == 3
