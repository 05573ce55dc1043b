"""Continuations for decoders in which a token's text depends on its neighbours (WordPiece, CTC, no decoder, ...)."""

from collections.abc import Sequence

from rhapsode_server.text.tokenizer import Tokenizer

# Such decoders look at the token before. A few more cover tokens without text and what is stripped at the start.
_CONTEXT_LENGTH = 8
# A character has at most four bytes, so waiting for more than four tokens cannot complete it.
_MAX_HELD = 4


class RedecodedContinuation:
    """Each token adds what decoding the last few tokens with it has more than without it.

    A short window, so that the work stays linear in the length of the completion.
    """

    def __init__(self, tokenizer: Tokenizer, prompt_ids: Sequence[int], skip_special_tokens: bool) -> None:
        self._tokenizer = tokenizer
        self._skip_special_tokens = skip_special_tokens
        self._context = tuple(self._visible(prompt_ids)[-_CONTEXT_LENGTH:])
        self._held: tuple[int, ...] = ()

    def push(self, ids: Sequence[int]) -> str:
        return "".join(map(self._push_one, self._visible(ids)))

    def finish(self) -> str:
        return self._release(self._addition())

    def _push_one(self, token_id: int) -> str:
        self._held += (token_id,)
        addition = self._addition()
        is_incomplete = addition.endswith("\N{REPLACEMENT CHARACTER}") and len(self._held) < _MAX_HELD
        return "" if is_incomplete else self._release(addition)

    def _addition(self) -> str:
        return self._decode(self._context + self._held)[len(self._decode(self._context)) :]

    def _release(self, addition: str) -> str:
        self._context = (self._context + self._held)[-_CONTEXT_LENGTH:]
        self._held = ()
        return addition

    def _visible(self, ids: Sequence[int]) -> list[int]:
        return self._tokenizer.visible_ids(ids, skip_special_tokens=self._skip_special_tokens)

    def _decode(self, ids: tuple[int, ...]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=False)
