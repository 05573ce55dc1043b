"""Text of a completion as its tokens arrive.

The text is the continuation of the prompt: prompt_text + text == decode(prompt + completion), in bytes. Only whole
characters come out, and the prompt never does: bytes that end a character begun in the prompt become one U+FFFD.
"""

import codecs
import copy
from collections.abc import Sequence

from rhapsode_server.text.redecoding import RedecodedContinuation
from rhapsode_server.text.token_bytes import TokenBytes
from rhapsode_server.text.tokenizer import Tokenizer

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class IncrementalDecoder:
    """Decodes one completion. However its ids are cut into pushes, the texts concatenate to the same text."""

    def __init__(self, tokenizer: Tokenizer, prompt_ids: Sequence[int], skip_special_tokens: bool) -> None:
        self._tokenizer = tokenizer
        self._skip_special_tokens = skip_special_tokens
        prompt = self._visible(prompt_ids)
        self._continuation: ByteContinuation | RedecodedContinuation
        if tokenizer.token_table is None:
            self._continuation = RedecodedContinuation(tokenizer, prompt)
        else:
            self._continuation = ByteContinuation(tokenizer.token_table, prompt)

    def push(self, ids: Sequence[int]) -> str:
        """What `ids` complete; the bytes of an incomplete character wait for the next push."""
        return self._continuation.push(self._visible(ids))

    def finish(self) -> str:
        """What is left when no more ids come: U+FFFD for an incomplete character, else nothing."""
        return self._continuation.finish()

    def copy(self) -> "IncrementalDecoder":
        """A decoder in the same state that goes its own way from here."""
        twin = copy.copy(self)
        twin._continuation = copy.copy(self._continuation)
        return twin

    def _visible(self, ids: Sequence[int]) -> list[int]:
        return self._tokenizer.visible_ids(ids, skip_special_tokens=self._skip_special_tokens)


class ByteContinuation:
    """The continuation where decoding is a concatenation of the tokens' bytes. Its state is immutable values only."""

    def __init__(self, table: TokenBytes, prompt_ids: Sequence[int]) -> None:
        self._table = table
        self._begun = table.begin_text(prompt_ids)
        self._prompt_tail = _incomplete_tail(table, prompt_ids)
        self._pending = b""
        self._straddles_prompt = False

    def push(self, ids: Sequence[int]) -> str:
        data = self._table.join(ids, at_start=not self._begun)
        self._begun = self._begun or self._table.begin_text(ids)
        return self._decode(data, final=False)

    def finish(self) -> str:
        return self._decode(b"", final=True)

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


def _incomplete_tail(table: TokenBytes, ids: Sequence[int]) -> bytes:
    """The last bytes of `ids` that begin a character without ending it: at most three."""
    data = b""
    for token_id in reversed(ids):
        data = table.anywhere[token_id] + data
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
