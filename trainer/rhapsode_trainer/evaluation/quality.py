"""Measures of generated text that need no reference: variety, loops, emptiness, length, and the form of poems.

A unit of text is a word or a single punctuation mark, in lower case. Distinct-n (Li et al. 2016) falls with the amount
of text, so compare it only between models that continued the same prompts for as many tokens.
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

_UNITS = re.compile(r"\w+|[^\w\s]")
_WORDS = re.compile(r"[^\W\d_]+(?:['\N{RIGHT SINGLE QUOTATION MARK}][^\W\d_]+)*")
_LAST_SOUND = re.compile(r"[aeiouy]+[^aeiouy]*$")
_SILENT_E = re.compile(r"[aeiouy]+[^aeiouy]+e$")
LOOP = 4
RHYME_REACH = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """Of a set of generated texts.

    `distinct_n`: different n-grams by all n-grams. `repetition`: share of 4-grams that stood in the same text before.
    `empty`: share of texts without any word. `words`: mean number of words in a text.
    """

    texts: int
    distinct_1: float
    distinct_2: float
    distinct_3: float
    repetition: float
    empty: float
    words: float


def measure_quality(texts: Sequence[str]) -> Quality:
    """Raises ValueError when there is no text to measure; an empty text is one."""
    if not texts:
        raise ValueError("texts: none to measure")
    units = [_UNITS.findall(text.lower()) for text in texts]
    words = [len(_WORDS.findall(text)) for text in texts]
    distinct_1, distinct_2, distinct_3 = (_distinct(units, n) for n in (1, 2, 3))
    return Quality(
        texts=len(texts),
        distinct_1=distinct_1,
        distinct_2=distinct_2,
        distinct_3=distinct_3,
        repetition=_repetition(units),
        empty=sum(count == 0 for count in words) / len(texts),
        words=sum(words) / len(texts),
    )


def _distinct(units: Sequence[Sequence[str]], n: int) -> float:
    grams = [gram for text in units for gram in _ngrams(text, n)]
    return len(set(grams)) / len(grams) if grams else 0.0


def _repetition(units: Sequence[Sequence[str]]) -> float:
    """Over all texts together, so that a long loop weighs more than a short poem."""
    grams = [_ngrams(text, LOOP) for text in units]
    count = sum(map(len, grams))
    return sum(len(each) - len(set(each)) for each in grams) / count if count else 0.0


def _ngrams(units: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return list(zip(*(units[start:] for start in range(n)), strict=False))


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """Of a set of poems: mean number of lines with words in a text, mean words and characters of a line, and
    `rhyme`, the share of lines whose ending is spelt as that of another line at most three lines away."""

    lines: float
    words_per_line: float
    characters_per_line: float
    rhyme: float


def measure_form(texts: Sequence[str]) -> Form:
    """Raises ValueError when there is no text to measure; a text without lines counts as zero lines."""
    if not texts:
        raise ValueError("texts: none to measure")
    poems = [[line.strip() for line in text.splitlines() if _WORDS.search(line)] for text in texts]
    lines = [line for poem in poems for line in poem]
    count = len(lines) or 1
    return Form(
        lines=len(lines) / len(texts),
        words_per_line=sum(len(_WORDS.findall(line)) for line in lines) / count,
        characters_per_line=sum(map(len, lines)) / count,
        rhyme=sum(map(_rhyming, poems)) / count,
    )


def _rhyming(lines: Sequence[str]) -> int:
    """How many lines rhyme with a neighbour. A word does not rhyme with itself."""
    words = [_plain(_WORDS.findall(line)[-1]) for line in lines]
    endings = [rhyme_ending(word) for word in words]
    return sum(
        any(
            endings[other] == ending and words[other] != words[index]
            for other in range(max(0, index - RHYME_REACH), min(len(lines), index + RHYME_REACH + 1))
        )
        for index, ending in enumerate(endings)
    )


def rhyme_ending(word: str) -> str:
    """The part of a word that a rhyme shares, by spelling alone: n-ight, l-ove, s-ky, but hap-py.

    From the last vowels on (before a silent e); a longer word that ends in one vowel keeps the consonant before it.
    """
    match = _SILENT_E.search(word) or _LAST_SOUND.search(word)
    if match is None:
        return word
    ending = match[0]
    longer = any(letter in "aeiouy" for letter in word[: match.start()])
    return word[match.start() - 1 :] if len(ending) == 1 and longer else ending


def _plain(word: str) -> str:
    """Lower case, without accents and apostrophes."""
    letters = unicodedata.normalize("NFKD", word.lower())
    return "".join(letter for letter in letters if letter.isalpha())
