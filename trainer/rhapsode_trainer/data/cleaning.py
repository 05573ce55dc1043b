"""Cleaning: named steps from text to text, applied in the order in which a recipe names them."""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib import import_module
from types import MappingProxyType
from typing import Any

from ..errors import ConfigError

Step = Callable[[str], str]

_TAGS = re.compile(r"\s*(?:\[\s*[A-Za-z]{2}\s*\]\s*)+")
_SPACES = re.compile(r"[^\S\n]+")
_SPACES_AROUND_NEWLINE = re.compile(r" *\n *")


def fix_text(text: str) -> str:
    """Text decoded by the wrong rule is decoded by the right one; odd quotes and controls are made plain (ftfy)."""
    fixed: str = _load("ftfy", "ftfy").fix_text(text)
    return fixed


def remove_bracket_tags(text: str) -> str:
    """Removes tags of two letters from the beginning: `[ WP ] A king ...` becomes `A king ...`."""
    found = _TAGS.match(text)
    return text[found.end() :] if found else text


def restore_newlines(text: str) -> str:
    """Turns the token `<newline>` back into a line break, and the spaces that were put around it into none."""
    return re.sub(r" ?<newline> ?", "\n", text)


def collapse_spaces(text: str) -> str:
    """One space for each run of white space in a line, and none at the ends of lines."""
    return _SPACES_AROUND_NEWLINE.sub("\n", _SPACES.sub(" ", text))


def lemmatize(text: str) -> str:
    """Each English word becomes its dictionary form by spaCy's lookup tables; all else stays as it is."""
    return "".join(
        (token.lemma_ if token.is_alpha else token.text) + token.whitespace_ for token in _lemmatizer()(text)
    )


STEPS: Mapping[str, Step] = MappingProxyType(
    {
        "ftfy": fix_text,
        "bracket_tags": remove_bracket_tags,
        "newline_tokens": restore_newlines,
        "collapse_spaces": collapse_spaces,
        "lowercase": str.lower,
        "strip": str.strip,
        "lemmatize": lemmatize,
    }
)


def clean(text: str, steps: Sequence[str]) -> str:
    """`text` after the steps of these names. Raises ConfigError where one needs a package that is not installed."""
    for name in steps:
        text = STEPS[name](text)
    return text


@cache
def _lemmatizer() -> Any:
    nlp = _load("spacy", "rhapsode-trainer[spacy]").blank("en")
    nlp.add_pipe("lemmatizer", config={"mode": "lookup"})
    _load("spacy_lookups_data", "rhapsode-trainer[spacy]")
    nlp.initialize()
    nlp.max_length = 2**62  # the limit protects parsers, and there is none
    return nlp


def _load(module: str, requirement: str) -> Any:
    try:
        return import_module(module)
    except ImportError:
        raise ConfigError(f"data.cleaning: {module} is not installed: pip install '{requirement}'") from None
