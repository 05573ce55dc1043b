"""The steps, each a function from text to text. A second application changes nothing, unless a step says otherwise."""

import re
from collections.abc import Callable, Iterator

from .sentences import sentence_ends

_LINE_BREAK = re.compile("\r\n|[\r\v\f\x1c\x1d\x1e\x85\u2028\u2029]")
_BLANKS = re.compile(r"[^\S\n]+")
_BLANK_AROUND_BREAK = re.compile(" ?\n ?")
_EMPTY_LINES = re.compile("\n{3,}")

_STRAIGHT = str.maketrans(
    {**dict.fromkeys("\u2018\u2019\u201a\u201b", "'"), **dict.fromkeys("\u201c\u201d\u201e\u201f", '"')}
)

_OPENING = re.compile(r"[\s\"'\(\[\u2018\u201c\u00ab\u2014-]*+")
_PRONOUN = re.compile(r"(?<![\w.'\u2019-])i(?=[\s,;:!?'\u2019\u2026]|\.(?!\w)|\Z)")

_LEADING_SPACE = re.compile(r"\s*+")
_WORD = re.compile(r"\w+")
_WORDS_OF_A_LONG_SENTENCE = 4


def build_ftfy() -> Callable[[str], str]:
    """`ftfy`: text that was decoded wrongly is decoded again, HTML entities become characters; quotes stay.

    >>> build_ftfy()("It was l\u00c3\u00a0, she &amp;lt;thought&amp;gt;")
    'It was l\u00e0, she <thought>'

    Entities are resolved only where no `<` says that the text is HTML on purpose, and not if escaped three times over.

    Raises ImportError, saying what to install.
    """
    try:
        import ftfy
    except ImportError:
        raise ImportError("the step ftfy needs a library: pip install 'rhapsode-contract[text]'") from None
    # ftfy itself resolves one level of `&amp;amp;...` in a pass over the text: quadratic where a model repeats it.
    config = ftfy.TextFixerConfig(unescape_html=False, uncurl_quotes=False, explain=False)
    unescape = ftfy.fixes.unescape_html

    def fix(text: str) -> str:
        plain = text if "<" in text else unescape(unescape(text))
        return ftfy.fix_text(plain, config)

    return fix


def whitespace(text: str) -> str:
    r"""One blank between words, none at the ends of lines, at most one empty line, nothing at the end of the text.

    A blank or a line break at the beginning stays, because the text is the continuation of a prompt.

    >>> whitespace(" a   rose \r\n\n\n\n is\ta rose  ")
    ' a rose\n\nis a rose'
    """
    text = _BLANKS.sub(" ", _LINE_BREAK.sub("\n", text))
    return _EMPTY_LINES.sub("\n\n", _BLANK_AROUND_BREAK.sub("\n", text)).rstrip()


def quotes(text: str) -> str:
    """Typographic quotation marks, and doubled single ones, become straight; French ones and single backticks stay.

    >>> quotes("\u201cIt\u2019s\u201d, ``he'' said")
    '"It\\'s", "he" said'
    """
    return text.translate(_STRAIGHT).replace("``", '"').replace("''", '"')


def last_sentence(text: str) -> str:
    """The text ends with its last complete sentence; a text without any stays as it is.

    >>> last_sentence("He met Dr. Who. Then they w")
    'He met Dr. Who.'
    """
    end = max(sentence_ends(text), default=len(text))
    return text[:end]


def capitals(text: str) -> str:
    """A capital at the beginning of each sentence, and for the English pronoun I.

    A text that begins with a blank continues a sentence of its prompt, so its first letter stays.

    >>> capitals("then i ran. \u201cwhere to?\u201d she asked.")
    'Then I ran. \u201cWhere to?\u201d she asked.'
    >>> capitals(" upon a time. i slept.")
    ' upon a time. I slept.'
    """
    characters = list(_PRONOUN.sub("I", text))
    for start in _sentence_starts(text):
        capital = characters[start].title()
        if len(capital) == 1:
            characters[start] = capital
    return "".join(characters)


def repeated_sentences(text: str) -> str:
    """Leaves out a sentence that says the same as the one before it, or, of four words or more, as any before it.

    Case, marks and white space make no difference. Where leaving a sentence out joins its neighbours into one, a second
    application may find more.

    >>> repeated_sentences("I went on and on. No. No! I went on, and on. Good.")
    'I went on and on. No. Good.'
    """
    kept: list[str] = []
    seen: set[tuple[str, ...]] = set()
    last: tuple[str, ...] = ()
    gap = ""
    for space, sentence in _sentences(text):
        gap = max(space, gap, key=lambda blank: blank.count("\n"))  # a paragraph stays one when it loses a sentence
        words = tuple(_WORD.findall(sentence.casefold()))
        if not words or (words != last and words not in seen):
            kept += [gap, sentence]
            last, gap = words, ""
            if len(words) >= _WORDS_OF_A_LONG_SENTENCE:
                seen.add(words)
    return "".join(kept)


def _sentence_starts(text: str) -> Iterator[int]:
    """The offset of the first character of each sentence, behind blanks, quotation marks and brackets."""
    begins = [] if text.startswith((" ", "\t")) else [0]
    for begin in (*begins, *sentence_ends(text)):
        start = _OPENING.match(text, begin)
        if start is not None and start.end() < len(text):
            yield start.end()


def _sentences(text: str) -> Iterator[tuple[str, str]]:
    """White space and sentence in turn, the last one perhaps incomplete; together they are the text."""
    begin = 0
    for end in (*sentence_ends(text), len(text)):
        space = _LEADING_SPACE.match(text, begin, end)
        assert space is not None, "the pattern matches nothing too"
        yield space[0], text[space.end() : end]
        begin = end
