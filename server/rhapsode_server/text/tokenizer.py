"""A version's tokenizer: texts to ids and back, from its tokenizer.json alone."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Final

import tokenizers

from rhapsode_server.text.length_bound import max_token_bytes
from rhapsode_server.text.token_bytes import read_spelling, tabulate


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """One token of a text: its id, its spelling in the vocabulary, and the UTF-8 bytes of the text it stands for."""

    id: int
    piece: str
    start: int
    end: int


class Tokenizer:
    """Immutable once loaded, so that any number of threads may use it at once.

    `token_table` holds every token's bytes, or None if the decoder does not just concatenate (see `token_bytes`).
    `max_token_bytes` bounds how much text one token covers: a text of n bytes has at least n / max_token_bytes tokens.
    It is None where no bound is known: a normaliser that may shrink the text (NFC too), unknown tokens, a model other
    than BPE, and what else `length_bound` names.
    """

    def __init__(self, inner: tokenizers.Tokenizer) -> None:
        inner.no_truncation()
        inner.no_padding()
        self._inner = inner
        # The library's own account of itself, because old files spell the same things in other ways.
        spec = json.loads(inner.to_str())
        added = inner.get_added_tokens_decoder()
        model_pieces = inner.get_vocab(with_added_tokens=False)
        self._pieces = {token_id: piece for piece, token_id in inner.get_vocab().items()}
        self._special_ids = frozenset(i for i, token in added.items() if token.special)
        self.vocabulary_size: Final = max(self._pieces, default=-1) + 1
        # An added token that the model's vocabulary has too is spelled as the vocabulary spells.
        literal_ids = frozenset(i for i, token in added.items() if token.content not in model_pieces)
        spelling = read_spelling(spec["decoder"])
        self.token_table: Final = tabulate(self._pieces, spelling, literal_ids) if spelling else None
        self._shown = {skips: self._shown_bytes(skips) for skips in (True, False)} if self.token_table else None
        self.max_token_bytes: Final = max_token_bytes(spec, self._pieces, self.token_table)

    @classmethod
    def load(cls, path: Path) -> "Tokenizer":
        """Read `path`/tokenizer.json. Raises ValueError naming the file if it is missing or not a tokenizer."""
        file = path / "tokenizer.json"
        try:
            inner = tokenizers.Tokenizer.from_str(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ValueError(f"{file} is missing: save the model's fast tokenizer there (save_pretrained)") from None
        except Exception as error:  # the library raises nothing narrower
            raise ValueError(
                f"{file} is not a readable tokenizer ({error}): save the model's fast tokenizer there again"
            ) from error
        return cls(inner)

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, without added special tokens."""
        # A batch of one, because only batches release the interpreter's lock: a long text takes most of a second.
        return self._inner.encode_batch_fast([text], add_special_tokens=False)[0].ids

    def encode_pieces(self, text: str) -> list[Piece]:
        """The tokens of `text`, in order.

        Where the tokens' bytes are the text's, each piece spans exactly its own, perhaps part of a character: the spans
        follow each other without a gap. Otherwise a piece spans the characters that the library says it came from.
        """
        encoding = self._inner.encode_batch([text], add_special_tokens=False)[0]
        spans = self._exact_spans(text, encoding.ids) or _character_spans(text, encoding.offsets)
        return [
            Piece(id=token_id, piece=piece, start=start, end=end)
            for token_id, piece, (start, end) in zip(encoding.ids, encoding.tokens, spans, strict=True)
        ]

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """The text of `ids`; bytes that are not UTF-8 become U+FFFD. Raises ValueError for an id without a token."""
        if (unknown := next((i for i in ids if i not in self._pieces), None)) is not None:
            raise ValueError(f"token id {unknown} is not in the vocabulary (ids below {self.vocabulary_size})")
        visible = self.visible_ids(ids, skip_special_tokens=skip_special_tokens)
        if self.token_table is None:
            return self._inner.decode(visible, skip_special_tokens=False)
        return self.token_table.join(visible, at_start=True).decode("utf-8", "replace")

    def shown_bytes(self, *, skip_special_tokens: bool) -> Sequence[bytes] | None:
        """What each token adds to a text but at its start, by id: nothing for those that do not show.

        None where that depends on its neighbours.
        """
        return self._shown[skip_special_tokens] if self._shown else None

    def visible_ids(self, ids: Iterable[int], *, skip_special_tokens: bool) -> list[int]:
        """Those of `ids` that show in a text.

        Ids without a token do not: a model may have more embeddings than its tokenizer has tokens.
        """
        skipped = self._special_ids if skip_special_tokens else frozenset()
        return [i for i in ids if i in self._pieces and i not in skipped]

    def token_bytes(self, token_id: int) -> bytes:
        """What the token adds to a text, except at its start; its spelling where that depends on its neighbours.

        Raises ValueError for an id without a token.
        """
        if token_id not in self._pieces:
            raise ValueError(f"token id {token_id} is not in the vocabulary (ids below {self.vocabulary_size})")
        if self.token_table is None:
            return self._pieces[token_id].encode()
        return self.token_table.anywhere[token_id]

    def _shown_bytes(self, skip_special_tokens: bool) -> list[bytes]:
        assert self.token_table
        return self.token_table.shown(self._special_ids if skip_special_tokens else ())

    def _exact_spans(self, text: str, ids: Sequence[int]) -> list[tuple[int, int]] | None:
        if self.token_table is None:
            return None
        # A space that the decoder takes from the start of a text need not be one that the encoder put there.
        for at_start in (True, False):
            parts = self.token_table.parts(ids, at_start=at_start)
            if b"".join(parts) == text.encode():
                return list(pairwise(accumulate(map(len, parts), initial=0)))
        return None


def _character_spans(text: str, offsets: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    byte_offsets = list(accumulate((len(character.encode()) for character in text), initial=0))
    return [(byte_offsets[start], byte_offsets[end]) for start, end in offsets]
