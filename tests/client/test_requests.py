"""Arguments become exactly the fields that they name, or an error that names the field."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rhapsode.v1 import generation_pb2 as pb
from rhapsode_client import ChatMessage, GenerateOptions, InvalidRequest
from rhapsode_client.requests import PARTS, detokenize_request, generate_request

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
    names = [name for names in PARTS.values() for name in names]
    assert set(names) == set(GenerateOptions.__annotations__)
    assert len(names) == len(set(names))


def test_every_field_of_the_wire_has_an_option():
    request = pb.GenerateRequest.DESCRIPTOR
    inputs = {field.name for field in request.oneofs_by_name["input"].fields}
    spelled = {"stop": "stop_strings"}
    for part, names in PARTS.items():
        message = request.fields_by_name[part].message_type if part else request
        fields = {field.name for field in message.fields} - (set() if part else {*PARTS, *inputs})
        assert fields == {spelled.get(name, name) for name in names}


def test_every_option_lands_in_its_field():
    request = generate_request(
        "x",
        version=3,
        priority=-5,
        truncate_prompt=True,
        min_p=0.25,
        typical_p=0.5,
        repetition_penalty=2,
        presence_penalty=-1,
        frequency_penalty=1,
        logit_bias={7: -100},
        allowed_token_ids=[7, 8],
        banned_words=["sea"],
        min_new_tokens=2,
        include_stop=True,
        time_limit=1.5,
        logprobs=True,
        top_logprobs=3,
        prompt_logprobs=True,
        echo=True,
        postprocess=True,
        regex="a+",
    )
    sampling = {"min_p": 0.25, "typical_p": 0.5, "repetition_penalty": 2, "presence_penalty": -1}
    lists = {"logit_bias": {7: -100}, "allowed_token_ids": [7, 8], "banned_words": ["sea"]}
    stopping = {"min_new_tokens": 2, "include_stop": True, "time_limit": {"seconds": 1, "nanos": 500_000_000}}
    output = {"logprobs": True, "top_logprobs": 3, "prompt_logprobs": True, "echo": True, "postprocess": True}
    assert request == pb.GenerateRequest(
        prompt="x",
        version=3,
        priority=-5,
        truncate_prompt=True,
        sampling={**sampling, "frequency_penalty": 1, **lists},
        stopping=stopping,
        output=output,
        constraint={"regex": "a+"},
    )


@pytest.mark.parametrize(
    ("option", "constraint"),
    [
        ({"json_schema": {"type": "integer"}}, {"json_schema": '{"type": "integer"}'}),
        ({"json_schema": "{}"}, {"json_schema": "{}"}),
        ({"json_schema": {}}, {"json_schema": "{}"}),
        ({"choices": ("yes", "no")}, {"choices": {"texts": ["yes", "no"]}}),
        ({"choices": []}, {"choices": {}}),
        ({"grammar": 'root ::= "a"'}, {"grammar": 'root ::= "a"'}),
    ],
)
def test_a_constraint(option, constraint):
    assert generate_request("x", **option) == pb.GenerateRequest(prompt="x", constraint=constraint)


def test_a_conversation():
    turns = [ChatMessage("user", "Sing"), {"role": "assistant", "content": "La"}]
    messages = [{"role": "user", "content": "Sing"}, {"role": "assistant", "content": "La"}]
    assert generate_request(turns) == pb.GenerateRequest(messages={"messages": messages})


def test_none_is_the_default():
    assert generate_request("x", **dict.fromkeys(GenerateOptions.__annotations__)) == pb.GenerateRequest(prompt="x")


def test_an_option_that_there_is_not_is_a_mistake_of_the_program():
    with pytest.raises(TypeError, match="heat: no such option; GenerateOptions lists them"):
        generate_request("x", heat=3)


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
        ([{"role": "user"}], {}, r"messages.messages[0]"),
        ([{"role": "user", "content": 3}], {}, r"messages.messages[0].content"),
        ([ChatMessage("user", "x"), ChatMessage(3, "x")], {}, r"messages.messages[1].role"),
        ([ChatMessage("user", "x"), 5], {}, "messages.messages[1]"),
        ("x", {"logit_bias": {-1: 1.0}}, "sampling.logit_bias"),
        ("x", {"logit_bias": [1]}, "sampling.logit_bias"),
        ("x", {"banned_words": [3]}, "sampling.banned_words"),
        ("x", {"time_limit": "soon"}, "stopping.time_limit"),
        ("x", {"time_limit": float("nan")}, "stopping.time_limit"),
        ("x", {"priority": 2**31}, "priority"),
        ("x", {"choices": [3]}, "constraint.choices.texts"),
        ("x", {"regex": "a", "choices": ["a"]}, "constraint"),
        ("x", {"json_schema": {"const": b"x"}}, "constraint.json_schema"),
        (3, {}, "prompt_token_ids"),
        (None, {}, "prompt_token_ids"),
    ],
)
def test_a_value_that_does_not_fit_is_named(prompt, options, field):
    with pytest.raises(InvalidRequest, match=f"^{re.escape(field)}: ") as caught:
        generate_request(prompt, **options)
    assert [violation.field for violation in caught.value.violations] == [field]


def test_the_text_of_a_string_is_not_asked_for():
    with pytest.raises(InvalidRequest, match="token_ids: must be a sequence of token ids, not str"):
        detokenize_request("12", model="", version=None, alias=None, skip_special_tokens=None)
