"""How much text one token can stand for at most, so that hopelessly long texts need not be tokenised."""

from collections.abc import Mapping
from typing import Any

from rhapsode_server.text.token_bytes import BYTE_ALPHABET, TokenBytes, flatten

# The others never occur in UTF-8, so a vocabulary may well lack them.
_UTF8_BYTES = [byte for byte in range(256) if byte not in {0xC0, 0xC1, *range(0xF5, 0x100)}]


def max_token_bytes(spec: Mapping[str, Any], pieces: Mapping[int, str], table: TokenBytes | None) -> int | None:
    """The most UTF-8 bytes of text that one token covers, or None where no such bound is known.

    A text of n bytes then has at least n / max_token_bytes tokens. This holds when nothing of the text can get lost on
    its way to the tokens: a BPE model that has a token for every byte of UTF-8, a normaliser that only prepends text or
    respells spaces, pre-tokenisers that only split, and no added token that swallows the spaces beside it.
    `spec` is a parsed tokenizer.json, `pieces` and `table` its tokens by id.
    """
    if table is None or not pieces or not _keeps_all_text(spec):
        return None
    vocabulary = spec["model"]["vocab"]
    if _is_byte_level(spec) and vocabulary.keys() >= {BYTE_ALPHABET[byte] for byte in _UTF8_BYTES}:
        return max(map(len, table.anywhere.values()))
    if spec["model"]["byte_fallback"] and vocabulary.keys() >= {f"<0x{byte:02X}>" for byte in _UTF8_BYTES}:
        # As spelled: a piece may also stand for text that holds U+2581 itself, three bytes and not the one of a space.
        return max(len(piece.encode()) for piece in pieces.values())
    return None


def _keeps_all_text(spec: Mapping[str, Any]) -> bool:
    model = spec["model"]
    return (
        model["type"] == "BPE"
        and not model["continuing_subword_prefix"]
        and not model["end_of_word_suffix"]
        and all(map(_only_lengthens, flatten(spec["normalizer"], "normalizers")))
        and all(map(_only_splits, flatten(spec["pre_tokenizer"], "pretokenizers")))
        and not any(token["lstrip"] or token["rstrip"] for token in spec["added_tokens"])
    )


def _is_byte_level(spec: Mapping[str, Any]) -> bool:
    return any(step["type"] == "ByteLevel" for step in flatten(spec["pre_tokenizer"], "pretokenizers"))


def _only_lengthens(normalizer: Mapping[str, Any]) -> bool:
    match normalizer["type"]:
        case "Prepend":
            return True
        case "Replace":
            return bool(normalizer["pattern"] == {"String": " "} and normalizer["content"])
    return False


def _only_splits(pre_tokenizer: Mapping[str, Any]) -> bool:
    match pre_tokenizer["type"]:
        case "ByteLevel" | "Metaspace" | "Digits":
            return True
        case "Split" | "Punctuation":
            return bool(pre_tokenizer["behavior"] != "Removed")
    return False
