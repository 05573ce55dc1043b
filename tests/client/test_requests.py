"""Arguments become exactly the fields that they name, or an error that names the field."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rhapsode_client import GenerateOptions, InvalidRequest
from rhapsode_client.requests import detokenize_request, generate_request

UINT32, UINT64 = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)
TEXT = st.text(st.characters(exclude_categories=["Cs"]))


@given(
    prompt=TEXT | st.lists(UINT32),
    chosen=st.fixed_dictionaries(
        {}, optional={"temperature": st.floats(width=32, allow_nan=False), "top_k": UINT32, "seed": UINT64}
    ),
)
def test_what_is_given_is_set_and_nothing_else(prompt, chosen):
    request = generate_request(prompt, **chosen)
    assert {field.name: value for field, value in request.sampling.ListFields()} == chosen
    if isinstance(prompt, str):
        assert request.WhichOneof("input") == "prompt"
        assert request.prompt == prompt
    else:
        assert request.WhichOneof("input") == "prompt_token_ids"
        assert list(request.prompt_token_ids.ids) == prompt
    assert request.WhichOneof("version_selector") is None
    assert not request.stopping.HasField("max_new_tokens")


def test_one_stop_text_is_not_taken_apart():
    assert list(generate_request("x", stop="END").stopping.stop_strings) == ["END"]


def test_the_options_are_the_arguments():
    arguments = set(generate_request.__kwdefaults__)
    assert arguments == set(GenerateOptions.__annotations__)


@pytest.mark.parametrize(
    ("prompt", "options", "field"),
    [
        ("x", {"seed": -1}, "sampling.seed"),
        ("x", {"seed": 2**64}, "sampling.seed"),
        ("x", {"top_k": 1.5}, "sampling.top_k"),
        ("x", {"temperature": "hot"}, "sampling.temperature"),
        ("x", {"max_new_tokens": "many"}, "stopping.max_new_tokens"),
        ("x", {"stop": [b"\xff"]}, "stopping.stop_strings"),
        ("x", {"stop_token_ids": [-1]}, "stopping.stop_token_ids"),
        ("x", {"model": 3}, "model"),
        ("x", {"version": -3}, "version"),
        ("x", {"version": 3, "alias": "champion"}, "alias"),
        ("lone \ud800 surrogate", {}, "prompt"),
        ([-1], {}, "prompt_token_ids.ids"),
        (["a"], {}, "prompt_token_ids.ids"),
        (b"bytes", {}, "prompt_token_ids"),
    ],
)
def test_a_value_that_does_not_fit_is_named(prompt, options, field):
    with pytest.raises(InvalidRequest, match=f"^{field}: ") as caught:
        generate_request(prompt, **options)
    assert [violation.field for violation in caught.value.violations] == [field]


def test_the_text_of_a_string_is_not_asked_for():
    with pytest.raises(InvalidRequest, match="token_ids: must be a sequence of token ids, not str"):
        detokenize_request("12", model="", version=None, alias=None, skip_special_tokens=None)
