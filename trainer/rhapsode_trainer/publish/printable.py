"""Text that a model made, on its way to a terminal or a page."""


def printable(text: str) -> str:
    """An untrained model may say anything: control characters must not reach a terminal or a page."""
    return "".join(char if char.isprintable() or char == "\n" else "\N{REPLACEMENT CHARACTER}" for char in text)
