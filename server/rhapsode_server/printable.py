"""Texts from elsewhere, fit for a log, a terminal and the wire."""


def printable(text: str) -> str:
    """`text` with escapes for what cannot be printed, such as line ends, ESC and the halves of surrogate pairs."""
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)
