"""The prompt's text before a completion's, so that both together are one decoding of all tokens."""

from collections.abc import Sequence

from rhapsode_server.text.incremental import IncrementalDecoder
from rhapsode_server.text.tokenizer import Tokenizer


class Echo:
    """`text` is that of the prompt, but for a character that its last tokens only begin.

    Such a character is U+FFFD in a completion's own text if the completion ends it (see `text.incremental`), and
    nothing there if not; `join` puts the right one before or in its place. `skip_special_tokens` as for the completion.
    """

    def __init__(self, tokenizer: Tokenizer, prompt_ids: Sequence[int], skip_special_tokens: bool) -> None:
        self._whole = IncrementalDecoder(tokenizer, (), skip_special_tokens)
        self._own = IncrementalDecoder(tokenizer, prompt_ids, skip_special_tokens)
        self.text = self._whole.push(prompt_ids)
        self._is_open = bool(self._whole.copy().finish())
        self._character = ""
        self._replaces = False

    def join(self, ids: Sequence[int], text: str, *, is_last: bool) -> str:
        """The completion's next `text` made to follow the prompt's. `ids` are those that were pushed for it."""
        if self._is_open:
            self._close(ids, is_last=is_last)
        if not self._character or (self._replaces and not text):
            return text
        character, self._character = self._character, ""
        return character + text[1:] if self._replaces else character + text

    def _close(self, ids: Sequence[int], *, is_last: bool) -> None:
        """The open character ends in the first text that both decodings have: at its end, or where it is broken off."""
        whole, own = self._whole.push(ids), self._own.push(ids)
        if is_last:
            whole, own = whole + self._whole.finish(), own + self._own.finish()
        if whole:
            self._is_open = False
            self._character, self._replaces = whole[0], len(own) == len(whole)
