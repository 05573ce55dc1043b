import lzma

from rhapsode_trainer.evaluation.compression import xz_bits_per_byte


def test_xz_counts_only_what_the_held_out_text_adds() -> None:
    train, held_out = ["to be or not to be, that is the question"] * 3, ["whether it is", "nobler in the mind"]
    size = [
        len(lzma.compress("\n\n".join(texts).encode(), preset=9 | lzma.PRESET_EXTREME))
        for texts in (train, train + held_out)
    ]
    assert xz_bits_per_byte(train, held_out) == 8 * (size[1] - size[0]) / len("".join(held_out))
    assert xz_bits_per_byte(train, train[:1]) < xz_bits_per_byte(train, held_out)
