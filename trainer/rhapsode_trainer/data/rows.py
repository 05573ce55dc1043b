"""Rows of one pass over the documents, built when they are asked for: any row at any time, from the seed alone.

In one pass every target of every document is predicted exactly once. The first token of a row is never a target, since
nothing in the row predicts it; where a document goes on in the next row, that row begins with the last token of this.

Rows carry no attention mask. Packed rows have position ids that restart at each document and at the start of the row:
transformers derives from them that no document sees another, provided that no mask is passed and the model does not
cache. Blocks hold one document, and padding on the right, where causal attention never looks; without a mask they take
the fast kernels. What is not to be learned has the label -100: padding, prompts if the recipe says so, but never EOS.
"""

import random
from abc import abstractmethod
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from math import ceil

import numpy as np
from numpy.typing import NDArray

from .encoding import Encoded
from .settings import RowsConfig

Row = dict[str, NDArray[np.int64]]
NO_LOSS = -100


def rows_of_pass(documents: Sequence[Encoded], config: RowsConfig, *, pad: int, seed: int, epoch: int) -> "PassRows":
    """The rows of pass number `epoch` in their order, which depends on `seed` and `epoch` alone."""
    kind = PackedRows if config.kind == "packed" else BlockRows
    return kind(documents, config.block_size, pad, random.Random(f"{seed} {epoch}"))


class PassRows(Sequence[Row]):
    """Rows of `block_size` int64 values each: input_ids and labels, and position_ids where they are packed.

    `tokens` counts the ids that are not padding. A row without any target is left out.
    """

    def __init__(self, block_size: int, pad: int) -> None:
        self._pad = pad
        self.block_size = block_size
        self.tokens = 0

    @property
    def padding_share(self) -> float:
        """The share of all places that holds padding."""
        return 1 - self.tokens / (len(self) * self.block_size)

    @abstractmethod
    def _fill(self, row: Row, index: int) -> None: ...

    @abstractmethod
    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Row:  # type: ignore[override]  # slices have no use
        row = {
            "input_ids": np.full(self.block_size, self._pad, dtype=np.int64),
            "position_ids": np.zeros(self.block_size, dtype=np.int64),
            "labels": np.full(self.block_size, NO_LOSS, dtype=np.int64),
        }
        self._fill(row, range(len(self))[index])
        row["labels"][0] = NO_LOSS
        return row

    def _copy(self, row: Row, at: int, document: Encoded, start: int) -> None:
        """Puts the document from its token `start` on into the row at `at`, as far as there is room."""
        stop = min(len(document.ids), start + self.block_size - at)
        learned = max(start, document.first_target)
        row["input_ids"][at : at + stop - start] = document.ids[start:stop]
        row["position_ids"][at : at + stop - start] = np.arange(stop - start)
        row["labels"][at + learned - start : at + stop - start] = document.ids[learned:stop]


class BlockRows(PassRows):
    """Each document cut into blocks, the blocks shuffled; the last block of a document is padded."""

    def __init__(self, documents: Sequence[Encoded], block_size: int, pad: int, order: random.Random) -> None:
        super().__init__(block_size, pad)
        self._blocks = [
            (document, start)
            for document in documents
            for start in range(0, len(document.ids) - 1, block_size - 1)
            if start + block_size > document.first_target
        ]
        order.shuffle(self._blocks)
        self.tokens = sum(min(block_size, len(document.ids) - start) for document, start in self._blocks)

    def __len__(self) -> int:
        return len(self._blocks)

    def _fill(self, row: Row, index: int) -> None:
        document, start = self._blocks[index]
        self._copy(row, 0, document, start)
        del row["position_ids"]


class PackedRows(PassRows):
    """All documents in a new order, one after the other, cut into rows; only the last row is padded.

    The end-of-text token between two documents is both the last target of the one and the beginning of the other.
    """

    def __init__(self, documents: Sequence[Encoded], block_size: int, pad: int, order: random.Random) -> None:
        super().__init__(block_size, pad)
        self._order = order.sample(documents, len(documents))
        *self._begins, self._last = accumulate((len(document.ids) - 1 for document in self._order), initial=0)
        self._rows = self._rows_with_targets()
        clipped = ceil(self._last / self._step) * self._step - self._last
        self.tokens = len(self._rows) * block_size - clipped

    @property
    def _step(self) -> int:
        return self.block_size - 1

    def _rows_with_targets(self) -> list[int]:
        """A row may lie within one long prompt."""
        without: set[int] = set()
        for begin, document in zip(self._begins, self._order, strict=True):
            inside = begin + document.first_target - self.block_size
            without.update(range(ceil(begin / self._step), inside // self._step + 1))
        return [row for row in range(ceil(self._last / self._step)) if row not in without]

    def __len__(self) -> int:
        return len(self._rows)

    def _fill(self, row: Row, index: int) -> None:
        start = self._rows[index] * self._step
        document = bisect_right(self._begins, start) - 1
        while document < len(self._order) and self._begins[document] < start + self.block_size:
            begin = self._begins[document]
            self._copy(row, max(begin - start, 0), self._order[document], max(start - begin, 0))
            document += 1
