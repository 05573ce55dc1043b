"""The prompt's text and the completion's are one decoding of all tokens, also where a character spans both."""

import itertools

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rhapsode_server.rpc.echo import Echo
from rhapsode_server.text.stream import TextStream
from rhapsode_server.text.tokenizer import Tokenizer
from support import metaspace
from support.fake_models import TOKENIZER
from support.publishing import tiny_tokenizer

KINDS = {
    "bytes": TOKENIZER,
    "byte level": Tokenizer(tiny_tokenizer()),
    "llama": Tokenizer(metaspace.llama()),
    "metaspace": Tokenizer(metaspace.metaspace()),
}
TEXTS = st.lists(st.sampled_from(["the sea", " ", "\u00e9", "\U0001f600", "\ufffd", "a\u0301", "\n"]), max_size=6)
BROKEN = bytes.fromhex("41 80 98 9f c3 e2 82 f0 ff")


def echoed(tokenizer: Tokenizer, prompt: list[int], parts: list[list[int]], skip: bool, stops: tuple[str, ...]) -> str:
    echo = Echo(tokenizer, prompt, skip)
    stream = TextStream(tokenizer, prompt, stops, skip_special_tokens=skip)
    texts = [echo.text]
    for part in parts:
        texts.append(echo.join(part, stream.push(part).text, is_last=False))
    return "".join(texts) + echo.join((), stream.finish().text, is_last=True)


@given(data=st.data(), kind=st.sampled_from(sorted(KINDS)), skip=st.booleans())
def test_it_is_one_decoding(data: st.DataObject, kind: str, skip: bool) -> None:
    tokenizer = KINDS[kind]
    every = range(tokenizer.vocabulary_size)
    single = [i for i in every if tokenizer.token_bytes(i) in {bytes([byte]) for byte in BROKEN}]
    text_ids = TEXTS.map(lambda parts: tokenizer.encode("".join(parts)))
    ids = data.draw(st.lists(text_ids | st.lists(st.sampled_from(single or every), max_size=4), max_size=4))
    ids = list(itertools.chain.from_iterable(ids))
    cut = data.draw(st.integers(0, len(ids)))
    size = data.draw(st.integers(1, 5))
    parts = [ids[start : start + size] for start in range(cut, len(ids), size)]
    # A stop string that never matches holds text back all the same.
    stops = data.draw(st.sampled_from([(), ("\ufffd\ufffd never",), ("the sea\x07",)]))
    whole = tokenizer.decode(ids, skip_special_tokens=skip)
    assert echoed(tokenizer, ids[:cut], parts, skip, stops) == whole


@given(cut=st.integers(0, 4), size=st.integers(1, 4))
@example(cut=2, size=1)
def test_a_character_that_spans_both_is_whole(cut: int, size: int) -> None:
    ids = TOKENIZER.encode("\U0001f600")
    parts = [ids[start : start + size] for start in range(cut, 4, size)]
    assert echoed(TOKENIZER, ids[:cut], parts, True, ()) == "\U0001f600"


@pytest.mark.parametrize("rest", ["", "a"])
def test_a_character_that_never_ends_is_one_replacement(rest: str) -> None:
    prompt = TOKENIZER.encode("\U0001f600")[:3]
    parts = [TOKENIZER.encode(rest)] if rest else []
    assert echoed(TOKENIZER, prompt, parts, True, ()) == "\ufffd" + rest
