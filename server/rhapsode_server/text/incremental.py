"""Text of a completion as its tokens arrive.

The text is the continuation of the prompt: prompt_text + text == decode(prompt + completion), in bytes. Only whole
characters come out, and the prompt never does: bytes that end a character begun in the prompt become one U+FFFD.
"""

import codecs
from collections.abc import Sequence
from typing import TypeVar

from rhapsode_server.text.redecoding import RedecodedContinuation
from rhapsode_server.text.token_bytes import TokenBytes
from rhapsode_server.text.tokenizer import Tokenizer

T = TypeVar("T")

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class IncrementalDecoder:
    """Decodes one completion. However its ids are cut into pushes, the texts concatenate to the same text."""

    def __init__(self, tokenizer: Tokenizer, prompt_ids: Sequence[int], skip_special_tokens: bool) -> None:
        shown = tokenizer.shown_bytes(skip_special_tokens=skip_special_tokens)
        self._continuation: ByteContinuation | RedecodedContinuation
        if tokenizer.token_table is None or shown is None:
            self._continuation = RedecodedContinuation(tokenizer, prompt_ids, skip_special_tokens)
        else:
            self._continuation = ByteContinuation(tokenizer.token_table, shown, prompt_ids)

    def push(self, ids: Sequence[int]) -> str:
        """What `ids` complete; the bytes of an incomplete character wait for the next push."""
        return self._continuation.push(ids)

    def finish(self) -> str:
        """What is left when no more ids come: U+FFFD for an incomplete character, else nothing."""
        return self._continuation.finish()

    def copy(self) -> "IncrementalDecoder":
        """A decoder in the same state that goes its own way from here."""
        twin = _shallow_copy(self)
        twin._continuation = _shallow_copy(self._continuation)
        return twin


class ByteContinuation:
    """The continuation where decoding is a concatenation of the tokens' bytes: those in `shown`, by id, and the table's
    at the start of a text. Its state is immutable values only."""

    def __init__(self, table: TokenBytes, shown: Sequence[bytes], prompt_ids: Sequence[int]) -> None:
        self._table = table
        self._shown = shown
        self._begun = any(shown[token_id] for token_id in prompt_ids if token_id < len(shown))
        self._prompt_tail = _incomplete_tail(shown, prompt_ids)
        self._pending = b""
        self._straddles_prompt = False

    def push(self, ids: Sequence[int]) -> str:
        return self._decode(self._joined(ids), final=False)

    def finish(self) -> str:
        return self._decode(b"", final=True)

    def _joined(self, ids: Sequence[int]) -> bytes:
        shown = self._shown
        try:
            parts = [shown[token_id] for token_id in ids]
        except IndexError:
            return self._joined([token_id for token_id in ids if token_id < len(shown)])
        if not self._begun and any(parts):
            self._begun = True
            return self._table.join([token_id for token_id in ids if shown[token_id]], at_start=True)
        return b"".join(parts)

    def _decode(self, data: bytes, *, final: bool) -> str:
        if self._prompt_tail and data:
            self._leave_prompt(data[:1])
        text, self._pending = _decode_utf8(self._pending + data, final=final)
        if self._straddles_prompt and text:
            self._straddles_prompt = False
            text = REPLACEMENT + text[1:]
        return text

    def _leave_prompt(self, first_byte: bytes) -> None:
        # If the character is broken off here, the prompt's own text already shows that.
        if _is_valid_so_far(self._prompt_tail + first_byte):
            self._pending = self._prompt_tail
            self._straddles_prompt = True
        self._prompt_tail = b""


def _shallow_copy(original: T) -> T:
    """As copy.copy, which takes several times as long; where there are stop strings every message needs two."""
    twin = object.__new__(type(original))
    twin.__dict__.update(original.__dict__)
    return twin


def _incomplete_tail(shown: Sequence[bytes], ids: Sequence[int]) -> bytes:
    """The last bytes of `ids` that begin a character without ending it: at most three."""
    data = b""
    for token_id in reversed(ids):
        data = (shown[token_id] if token_id < len(shown) else b"") + data
        if len(data) >= 3:
            break
    return _decode_utf8(data[-3:])[1]


def _is_valid_so_far(data: bytes) -> bool:
    text, incomplete = _decode_utf8(data)
    return text.encode() + incomplete == data


def _decode_utf8(data: bytes, *, final: bool = False) -> tuple[str, bytes]:
    """The text of `data`, U+FFFD for what is invalid, and the incomplete character at its end unless `final`."""
    text, num_bytes = codecs.utf_8_decode(data, "replace", final)
    incomplete = data[num_bytes:]
    # Python waits for the third byte of a surrogate, although the first two are invalid already.
    if incomplete[:1] == b"\xed" and incomplete[1:] >= b"\xa0":
        return text + incomplete.decode("utf-8", "replace"), b""
    return text, incomplete
