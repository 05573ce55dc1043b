"""The continuation of a prompt, however its tokens arrive, against decoding everything at once."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rhapsode_server.text.incremental import IncrementalDecoder
from rhapsode_server.text.tokenizer import Tokenizer
from support.fuzzing import examples

Cut = Callable[[st.DataObject, Sequence[int]], list[list[int]]]


def begins_a_character(data: bytes) -> bool:
    """Whether `data` is one character, or its beginning and nothing else."""
    endings = [b"", b"\x80", b"\xa0", b"\x90", *(bytes([a, b]) for a in (0x80, 0xA0, 0x90) for b in (0x80,))]
    endings += [bytes([a, 0x80, 0x80]) for a in (0x80, 0x90)]
    return any(len((data + ending).decode("utf-8", "replace")) == 1 and is_utf8(data + ending) for ending in endings)


def is_utf8(data: bytes) -> bool:
    return data.decode("utf-8", "ignore").encode() == data


def expected_continuation(prompt: bytes, completion: bytes) -> str:
    """The rule of the continuation, naively: `completion` decoded alone, but for a character begun in the prompt."""
    tail = next((prompt[-n:] for n in (3, 2, 1) if not is_utf8(prompt[-n:]) and begins_a_character(prompt[-n:])), b"")
    num_shared = 0
    while tail and num_shared < len(completion) and begins_a_character(tail + completion[: num_shared + 1]):
        num_shared += 1
    return "\ufffd" * bool(num_shared) + completion[num_shared:].decode("utf-8", "replace")


def visible_bytes(tokenizer: Tokenizer, ids: Sequence[int], skip: bool) -> bytes:
    return b"".join(tokenizer.token_bytes(i) for i in tokenizer.visible_ids(ids, skip_special_tokens=skip))


def decode_in_parts(decoder: IncrementalDecoder, parts: Sequence[Sequence[int]]) -> str:
    return "".join(map(decoder.push, parts)) + decoder.finish()


@settings(max_examples=examples(200), deadline=None)
@given(data=st.data(), skip=st.booleans())
def test_the_continuation_is_exact_in_bytes(gpt2_like: Any, cut: Cut, data: st.DataObject, skip: bool) -> None:
    tokenizer = gpt2_like.tokenizer
    prompt, completion = data.draw(gpt2_like.ids, label="prompt"), data.draw(gpt2_like.ids, label="completion")
    text = decode_in_parts(IncrementalDecoder(tokenizer, prompt, skip), cut(data, completion))
    prompt_bytes = visible_bytes(tokenizer, prompt, skip)
    completion_bytes = visible_bytes(tokenizer, completion, skip)
    assert text == expected_continuation(prompt_bytes, completion_bytes)
    if is_utf8(prompt_bytes):
        everything = gpt2_like.library.decode(prompt + completion, skip_special_tokens=skip)
        assert tokenizer.decode(prompt, skip_special_tokens=skip) + text == everything


@settings(max_examples=examples(100), deadline=None)
@given(data=st.data(), skip=st.booleans())
def test_prompt_text_and_continuation_make_the_whole_text(
    concatenating: Any, cut: Cut, data: st.DataObject, skip: bool
) -> None:
    tokenizer = concatenating.tokenizer
    ids = data.draw(concatenating.ids, label="ids")
    prompt, completion = ids[: (middle := data.draw(st.integers(0, len(ids))))], ids[middle:]
    text = decode_in_parts(IncrementalDecoder(tokenizer, prompt, skip), cut(data, completion))
    assert text == decode_in_parts(IncrementalDecoder(tokenizer, prompt, skip), [completion])
    if is_utf8(visible_bytes(tokenizer, prompt, skip)):
        assert tokenizer.decode(prompt, skip_special_tokens=skip) + text == tokenizer.decode(
            ids, skip_special_tokens=skip
        )


@settings(max_examples=examples(50), deadline=None)
@given(data=st.data())
def test_whole_characters_come_out_at_once_and_no_others(concatenating: Any, data: st.DataObject) -> None:
    tokenizer = concatenating.tokenizer
    ids = data.draw(concatenating.ids)
    decoder = IncrementalDecoder(tokenizer, [], False)
    text = ""
    for count, token_id in enumerate(ids, 1):
        text += decoder.push([token_id])
        whole = tokenizer.decode(ids[:count], skip_special_tokens=False)
        assert whole in {text, text + "\ufffd"}


@settings(max_examples=examples(100), deadline=None)
@given(data=st.data(), skip=st.booleans())
def test_decoders_that_look_at_neighbours_continue_exactly(
    neighbourly: Any, cut: Cut, data: st.DataObject, skip: bool
) -> None:
    ids = data.draw(st.lists(st.integers(0, neighbourly.tokenizer.vocabulary_size - 1), max_size=30))
    prompt, completion = ids[: (middle := data.draw(st.integers(0, len(ids))))], ids[middle:]
    text = decode_in_parts(IncrementalDecoder(neighbourly.tokenizer, prompt, skip), cut(data, completion))
    prompt_text = neighbourly.library.decode(prompt, skip_special_tokens=skip)
    assert prompt_text + text == neighbourly.library.decode(ids, skip_special_tokens=skip)


@pytest.mark.parametrize(
    ("prompt", "completion", "text"),
    [
        (b"\xf0\x9f", b"\x98\x80!", "\ufffd!"),
        (b"\xf0\x9f", b"\x98", "\ufffd"),
        (b"\xf0\x9f", b"\x98!", "\ufffd!"),
        (b"\xf0\x9f", b"!", "!"),
        (b"\xf0\x9f", b"\xc3\xa9", "é"),
        (b"\xf0\x9f", b"", ""),
        (b"\xff", b"\x80!", "\ufffd!"),
        (b"\xed", b"\xa0!", "\ufffd!"),
        (b"\xed\xa0", b"\x80", "\ufffd"),
        (b"\xef\xbf", b"\xbd", "\ufffd"),
        (b"", b"\xf0\x9f\x98\x80\xf0\x9f", "😀\ufffd"),
        (b"", b"\xed\xa0\x80", "\ufffd\ufffd\ufffd"),
    ],
)
def test_characters_across_the_end_of_the_prompt(gpt2_like: Any, prompt: bytes, completion: bytes, text: str) -> None:
    tokenizer = gpt2_like.tokenizer
    id_of = {tokenizer.token_bytes(i): i for i in range(tokenizer.vocabulary_size)}
    prompt_ids = [id_of[bytes([byte])] for byte in prompt]
    completion_ids = [id_of[bytes([byte])] for byte in completion]
    one_by_one = [[token_id] for token_id in completion_ids]
    for parts in (one_by_one, [completion_ids]):
        assert decode_in_parts(IncrementalDecoder(tokenizer, prompt_ids, True), parts) == text
        assert expected_continuation(prompt, completion) == text


def test_tokens_without_text_do_not_begin_the_text_anew(neighbourly: Any) -> None:
    ids = [neighbourly.library.token_to_id(word) for word in ["▁", "▁", "▁", "b", "▁", "▁", "▁", "b"]]
    for middle in range(len(ids)):
        text = decode_in_parts(IncrementalDecoder(neighbourly.tokenizer, ids[:middle], True), [ids[middle:]])
        assert neighbourly.library.decode(ids[:middle]) + text == neighbourly.library.decode(ids)


def test_ids_without_a_token_have_no_text(gpt2_like: Any) -> None:
    sea = gpt2_like.tokenizer.encode(" sea")
    decoder = IncrementalDecoder(gpt2_like.tokenizer, [50_000], True)
    assert decode_in_parts(decoder, [[60_000, *sea], [60_001]]) == " sea"


def test_a_copy_goes_its_own_way(concatenating: Any) -> None:
    tokenizer = concatenating.tokenizer
    decoder = IncrementalDecoder(tokenizer, [], True)
    ids = tokenizer.encode("🌊")
    assert decoder.push(ids[:-1]) in {"", " "}
    twin = decoder.copy()
    assert [decoder.push(ids[-1:]), twin.push(ids[-1:])] == ["🌊", "🌊"]
