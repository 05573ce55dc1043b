"""Decoding by joining bytes against the library's decoders."""

from typing import Any

import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from rhapsode_server.text.token_bytes import BYTE_ALPHABET, read_spelling
from rhapsode_server.text.tokenizer import Tokenizer
from support.fuzzing import examples
from tokenizers import AddedToken, decoders, pre_tokenizers


def is_utf8(data: bytes) -> bool:
    return data.decode("utf-8", "ignore").encode() == data


def test_the_byte_alphabet_is_the_librarys() -> None:
    assert sorted(BYTE_ALPHABET) == sorted(pre_tokenizers.ByteLevel.alphabet())
    assert [BYTE_ALPHABET[byte] for byte in b" \n\0A\xc3\xad"] == ["Ġ", "Ċ", "Ā", "A", "Ã", "Ń"]


def test_pieces_outside_the_byte_alphabet_are_literal() -> None:
    spelling = read_spelling({"type": "ByteLevel"})
    assert spelling is not None
    for code in (*range(0x180), 0xFFFF, 0x1F30A):
        piece = f"{chr(code)}Ã"
        assert spelling(piece, False).decode("utf-8", "replace") == decoders.ByteLevel().decode([piece])


@settings(max_examples=examples(200), deadline=None)
@given(data=st.data(), skip=st.booleans())
def test_any_ids_decode_as_the_library_decodes_them(concatenating: Any, data: st.DataObject, skip: bool) -> None:
    tokenizer = concatenating.tokenizer
    ids = data.draw(concatenating.ids)
    visible = tokenizer.visible_ids(ids, skip_special_tokens=skip)
    all_bytes = b"".join(map(tokenizer.token_bytes, visible))
    text = tokenizer.decode(ids, skip_special_tokens=skip)
    is_byte_level = isinstance(concatenating.library.decoder, decoders.ByteLevel)
    # ByteFallback gives up a whole run of bytes for one bad byte. We decode as Python does.
    if is_byte_level or is_utf8(all_bytes):
        assert text == concatenating.library.decode(ids, skip_special_tokens=skip)
    else:
        assert text.lstrip() == all_bytes.decode("utf-8", "replace").lstrip()


def test_each_bad_run_of_bytes_becomes_what_python_makes_of_it(llama_like: Any) -> None:
    ids = [llama_like.library.token_to_id(f"<0x{byte:02X}>") for byte in b"\xc3\xa9\xff\xe2\x82A"]
    assert llama_like.tokenizer.decode(ids) == "é\ufffd\ufffdA"


def test_only_the_first_space_of_the_text_is_left_out(llama_like: Any) -> None:
    tokenizer = llama_like.tokenizer
    sea = llama_like.library.token_to_id("▁sea")
    start = llama_like.library.token_to_id("<s>")
    assert tokenizer.decode([start, sea, sea]) == "sea sea"
    assert tokenizer.decode([start, sea], skip_special_tokens=False) == "<s> sea"
    assert tokenizer.token_bytes(sea) == b" sea"


def test_added_tokens_are_literal(gpt2_like: Any) -> None:
    library = tokenizers.Tokenizer.from_str(gpt2_like.library.to_str())
    library.add_tokens(["für mich", "<｜end▁of▁text｜>"])
    tokenizer = Tokenizer(library)
    text = "sea für mich<｜end▁of▁text｜>"
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_the_vocabulary_spells_its_own_added_tokens(llama_like: Any) -> None:
    library = tokenizers.Tokenizer.from_str(llama_like.library.to_str())
    library.add_tokens([AddedToken("▁▁▁▁", normalized=False)])
    tokenizer = Tokenizer(library)
    spaces = library.token_to_id("▁▁▁▁")
    assert tokenizer.token_bytes(spaces) == b"    "
    assert tokenizer.decode([spaces, spaces]) == library.decode([spaces, spaces])


def test_decoders_that_look_at_neighbours_have_no_table(neighbourly: Any) -> None:
    assert neighbourly.tokenizer.token_table is None
    assert neighbourly.tokenizer.token_bytes(3) == b"##sea"
    assert neighbourly.tokenizer.decode([2, 3, 0]) == neighbourly.library.decode([2, 3, 0])


def test_decoder_steps_that_do_more_than_concatenate_are_not_taken_for_it() -> None:
    replace = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
    strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    fuse = {"type": "Fuse"}
    for steps in (
        [{**replace, "pattern": {"Regex": "a+"}}],
        [replace, strip],
        [fuse, replace],
        [replace, fuse, {**strip, "start": 2}],
        [replace, fuse, {**strip, "stop": 1}],
        [replace, {"type": "ByteLevel"}],
    ):
        assert read_spelling({"type": "Sequence", "decoders": steps}) is None
    assert read_spelling({"type": "Sequence", "decoders": [replace, {"type": "Sequence", "decoders": [fuse, strip]}]})
