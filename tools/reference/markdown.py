"""Prose, tables and links in GitHub's Markdown."""

import re
from collections.abc import Sequence

from reference.schema import Schema

# Names of several words: one word alone, such as Status or Token, is more often meant as a word.
_NAME = re.compile(r"(`?)\b((?:[A-Z][a-z]+){2,})\b(?![\w(])(\.\w+)?\1")
_CODE = re.compile(r"(`[^`]*`)")
_PROTOBUF_DOCUMENTATION = "https://protobuf.dev/reference/protobuf/google.protobuf/"


class Linker:
    """Knows what has a heading on the page, which GitHub makes an anchor of. Raises ValueError if two are alike."""

    def __init__(self, schema: Schema) -> None:
        methods = [method.name for service in schema.services for method in service.methods]
        types = [service.name for service in schema.services]
        types += [message.name for message in schema.messages] + [enum.name for enum in schema.enums]
        headings = ["API reference", "Errors", "Message types", "Enum types"]
        anchors = [name.lower() for name in (*methods, *types, *headings)]
        if twice := sorted({anchor for anchor in anchors if anchors.count(anchor) > 1}):
            raise ValueError(f"several headings would have the same anchor: {', '.join(twice)}")
        self._known = {*methods, *types}

    def to(self, name: str) -> str:
        """A link to the heading of a service, RPC, message or enum; `Message.field` links to the message."""
        known = name.partition(".")[0]
        return f"[{name}](#{known.lower()})" if known in self._known else name

    def type(self, name: str) -> str:
        """The type of a field."""
        if name.startswith("google.protobuf."):
            return f"[{name}]({_PROTOBUF_DOCUMENTATION}#{name.rpartition('.')[2].lower()})"
        return self.to(name) if name in self._known else f"`{name}`"

    def prose(self, comment: str, owner: str = "") -> str:
        """A comment as paragraphs, with links to what it names, but for its owner."""

        def linked(match: re.Match[str]) -> str:
            tick, name, field = match[1], match[2], match[3] or ""
            if name == owner or name not in self._known:
                return match[0]
            return f"[{tick}{name}{field}{tick}](#{name.lower()})"

        return _NAME.sub(linked, _escaped(comment))

    def cell(self, comment: str, owner: str = "") -> str:
        """The same in a cell of a table: on one line."""
        paragraphs = [" ".join(part.split("\n")) for part in self.prose(comment, owner).split("\n\n")]
        return "<br>".join(paragraphs).replace("|", r"\|")


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Cells are Markdown that has no line breaks."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _escaped(text: str) -> str:
    """What Markdown would take for its own, outside of code."""
    parts = _CODE.split(text)
    parts[::2] = [part.replace("<", "&lt;").replace("*", r"\*") for part in parts[::2]]
    return "".join(parts)
