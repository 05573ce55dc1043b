"""What a general compressor makes of the same text: the number to stand beside bits per byte."""

import lzma
from collections.abc import Sequence

_SEPARATOR = "\n\n"


def xz_bits_per_byte(train: Sequence[str], held_out: Sequence[str]) -> float:
    """Bits that `xz -9e` spends on a byte of the held-out texts once it has seen the training texts.

    What separates texts costs bits and stands for no bytes, as the end-of-text tokens of a model do.
    """
    size = sum(len(text.encode()) for text in held_out)
    return 8 * (_compressed_size([*train, *held_out]) - _compressed_size(train)) / size


def _compressed_size(texts: Sequence[str]) -> int:
    return len(lzma.compress(_SEPARATOR.join(texts).encode(), preset=9 | lzma.PRESET_EXTREME))
