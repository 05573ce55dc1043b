"""Packed rows for tests of training: as many as asked for, over as many passes as that takes."""

from collections.abc import Callable, Iterator
from itertools import count, islice

from rhapsode_trainer.data.encoding import Encoded
from rhapsode_trainer.data.rows import rows_of_pass
from rhapsode_trainer.data.settings import RowsConfig


def pack(
    encode: Callable[[], list[list[int]]], *, end_of_text: int, block_size: int, rows: int, seed: int
) -> Iterator[dict[str, list[int]]]:
    """`encode` gives the ids of the documents, without the tokens that begin and end them."""

    def passes() -> Iterator[dict[str, list[int]]]:
        for epoch in count():
            documents = [Encoded(ids=[end_of_text, *ids, end_of_text], first_target=1) for ids in encode()]
            config = RowsConfig(kind="packed", block_size=block_size)
            for row in rows_of_pass(documents, config, pad=end_of_text, seed=seed, epoch=epoch):
                yield {name: values.tolist() for name, values in row.items()}

    return islice(passes(), rows)
