"""Where sentences end: by marks and what surrounds them, without a model and without a language.

A mark ends a sentence with the closing quotation marks and brackets behind it, where white space or nothing follows
(in Chinese and Japanese: whatever follows). Not so a point behind an initial or a common abbreviation, nor an
ellipsis or the end of a quotation that goes on in lower case.
"""

import re
from collections.abc import Iterator

_CLOSING = "\"'\\)\\]\u2019\u201d\u00bb\u300d\u300f\uff09"
_MARKS = ".!?\u2026\u203d\u061f\u06d4\u0964\u0965"
_FULL_WIDTH_MARKS = "\u3002\uff01\uff1f\uff61"
# The look-behind keeps a search from beginning again inside a run of marks: that would take quadratic time.
_END = re.compile(
    rf"(?<![{_MARKS}])(?P<marks>[{_MARKS}]++)(?P<closing>[{_CLOSING}]*+)(?=(?P<space>\s)|\Z)"
    rf"|[{_FULL_WIDTH_MARKS}]++[{_CLOSING}]*+"
)
_NEXT = re.compile(r"\s*+(?P<next>.)?")
_LAST_WORD = re.compile(r"(?P<before>\.?)(?P<word>[^\W\d_]+)\Z")
_LONGEST_ABBREVIATION = 8
_ABBREVIATIONS = frozenset(
    ("mr", "mrs", "ms", "dr", "prof", "st", "jr", "sr", "lt", "col", "capt", "sgt", "gen", "rev", "hon", "vs", "messrs")
)


def sentence_ends(text: str) -> Iterator[int]:
    """The offsets just behind each sentence that is complete, ascending.

    >>> text = 'Mr. J. Doe left... or not? "Go!" she said. And th'
    >>> [text[:end][-6:] for end in sentence_ends(text)]
    ['r not?', ' said.']
    """
    return (match.end() for match in _END.finditer(text) if _is_end(text, match))


def _is_end(text: str, match: re.Match[str]) -> bool:
    marks = match["marks"]
    if marks == "." and _is_abbreviation(text[max(0, match.start() - _LONGEST_ABBREVIATION) : match.start()]):
        return False
    if match["space"] and (match["closing"] or marks == "\u2026" or marks.startswith("..")):
        return not _next_is_lower(text, match.end())
    return True


def _is_abbreviation(before: str) -> bool:
    last = _LAST_WORD.search(before)
    if last is None:
        return False
    word = last["word"]
    if len(word) == 1:
        return last["before"] == "." or (word.isupper() and word != "I")
    return word.casefold() in _ABBREVIATIONS


def _next_is_lower(text: str, position: int) -> bool:
    following = _NEXT.match(text, position)
    return following is not None and following["next"] is not None and following["next"].islower()
