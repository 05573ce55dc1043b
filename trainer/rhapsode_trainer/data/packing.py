"""Packing: documents become full rows of token ids in which no document sees another.

Every document begins with the end-of-text token, which is at the same time the target after the last token of the
document before it, so EOS is learned and no place is spent on padding. Position ids restart at each document and at the
start of a row: transformers derives the block-diagonal attention mask from them, provided that no attention mask is
passed and the model does not cache.
"""

import random
from collections.abc import Callable, Iterator

Row = dict[str, list[int]]


def pack(
    encode: Callable[[], list[list[int]]], *, end_of_text: int, block_size: int, rows: int, seed: int
) -> Iterator[Row]:
    """Yields `rows` rows of `block_size` tokens: input_ids, position_ids, labels.

    `encode` is called once for each pass over the documents, whose order is drawn anew. What does not fill a row is the
    beginning of the next pass.
    """
    order = random.Random(seed)
    stream: list[int] = []
    while rows > 0:
        documents = encode()
        order.shuffle(documents)
        for document in documents:
            stream += [end_of_text, *document]
        for start in range(0, min(len(stream) // block_size, rows) * block_size, block_size):
            yield _row(stream[start : start + block_size], end_of_text)
            rows -= 1
        stream = stream[len(stream) // block_size * block_size :]


def _row(ids: list[int], end_of_text: int) -> Row:
    return {"input_ids": ids, "position_ids": positions(ids, end_of_text), "labels": ids}


def positions(ids: list[int], end_of_text: int) -> list[int]:
    """Counts from 0, and from 0 again at each end-of-text token."""
    result: list[int] = []
    for index, token in enumerate(ids):
        result.append(0 if token == end_of_text or index == 0 else result[-1] + 1)
    return result
