"""Grammars in GBNF, the notation of llama.cpp, put in the words of llguidance.

    root  ::= "yes" | "no" ("," [ \\t]* word){0,3}    # alternatives, groups, repetitions, comments
    word  ::= [a-z]+ | "\\u00fc"

A rule ends where the next begins, so line breaks mean nothing. llguidance splits a text into lexemes, always the
longest that fits, before it parses: to it `("a" | "ab") "b"` does not match "ab". Here every lexeme is one character,
none is longer than another, and the language is exactly that of the grammar.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NoReturn

_TOKEN = re.compile(
    r"""(?P<space>(?:\s|\#[^\n]*)+)
    | (?P<name>[A-Za-z0-9_-]+)
    | (?P<defined>::=)
    | "(?P<literal>(?:\\.|[^"\\])*)"
    | \[(?P<negation>\^?)(?P<members>(?:\\.|[^\]\\])*)\]
    | (?P<repetition>[*+?]|\{\s*\d+\s*(?:,\s*\d*\s*)?\})
    | (?P<mark>[.()|])""",
    re.VERBOSE | re.DOTALL,
)
_CHARACTER = re.compile(
    r"\\x([0-9A-Fa-f]{2}) | \\u([0-9A-Fa-f]{4}) | \\U([0-9A-Fa-f]{8}) | \\([^A-Za-z0-9]|[nrt]) | ([^\\])",
    re.VERBOSE | re.DOTALL,
)
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t"}
_EMPTY = '""'
_MAX_DEPTH = 50


class GrammarError(ValueError):
    """The text is no grammar; says where and why."""


def to_lark(source: str) -> str:
    """The same language for llguidance. Raises GrammarError."""
    return _Parser(source).parse()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Token:
    kind: str
    text: str
    negated: bool
    line: int


class _Parser:
    def __init__(self, source: str) -> None:
        self._tokens: Final = list(_tokens(source))
        self._index = 0
        self._names: dict[str, str] = {"root": "start"}
        self._used: dict[str, int] = {"root": 0}  # the line of first use, by name

    def parse(self) -> str:
        rules: dict[str, str] = {}
        while self._kind() != "end":
            name = self._take("name")
            self._take("defined")
            if name.text in rules:
                raise GrammarError(f"line {name.line}: the rule {name.text!r} is defined twice")
            rules[name.text] = self._alternatives(depth=0)
        for name_used, line in self._used.items():
            if name_used not in rules:
                raise GrammarError(f"line {line}: no rule {name_used!r}" if line else "no rule 'root' to begin with")
        return "\n".join(f"{self._rule_name(name)}: {body}" for name, body in rules.items())

    def _alternatives(self, depth: int) -> str:
        if depth > _MAX_DEPTH:
            self._fail(f"parentheses nest deeper than {_MAX_DEPTH}")
        alternatives = [self._sequence(depth)]
        while self._kind() == "|":
            self._index += 1
            alternatives.append(self._sequence(depth))
        return " | ".join(alternatives)

    def _sequence(self, depth: int) -> str:
        parts = []
        while not self._ends_sequence():
            part = self._part(depth)
            while self._kind() == "repetition":
                times = "".join(self._take("repetition").text.split())
                part = f"({part}{times})"
            parts.append(part)
        return " ".join(parts) or _EMPTY

    def _ends_sequence(self) -> bool:
        begins_rule = self._kind() == "name" and self._kind(1) == "defined"
        return begins_rule or self._kind() in ("|", ")", "end")

    def _part(self, depth: int) -> str:
        token = self._tokens[self._index]
        self._index += 1
        match token.kind:
            case "name":
                self._used.setdefault(token.text, token.line)
                return self._rule_name(token.text)
            case "literal":
                return _literal(token)
            case "members":
                return _class(token)
            case ".":
                return "/(?s:.)/"
            case "(":
                group = self._alternatives(depth + 1)
                self._take(")")
                return f"({group})"
        self._index -= 1
        return self._fail("a name, a literal, a class or a group is missing")

    def _rule_name(self, name: str) -> str:
        return self._names.setdefault(name, f"r{len(self._names)}")

    def _kind(self, ahead: int = 0) -> str:
        return self._tokens[min(self._index + ahead, len(self._tokens) - 1)].kind

    def _take(self, kind: str) -> _Token:
        if self._kind() != kind:
            self._fail({"name": "a rule's name", "defined": "::="}.get(kind, kind) + " is missing")
        self._index += 1
        return self._tokens[self._index - 1]

    def _fail(self, what: str) -> NoReturn:
        token = self._tokens[self._index]
        before = "the end" if token.kind == "end" else repr(token.text)
        raise GrammarError(f"line {token.line}: {what} before {before}")


def _tokens(source: str) -> Iterator[_Token]:
    position, line = 0, 1
    while position < len(source):
        found = _TOKEN.match(source, position)
        if found is None:
            raise GrammarError(f"line {line}: what begins with {source[position : position + 10]!r} is not understood")
        kind = str(found.lastgroup)
        if kind != "space":
            text = found[kind]
            yield _Token(kind=text if kind == "mark" else kind, text=text, negated=bool(found["negation"]), line=line)
        position, line = found.end(), line + found[0].count("\n")
    yield _Token(kind="end", text="", negated=False, line=line)


def _literal(token: _Token) -> str:
    characters = [f"/{_spell(code)}/" for code, _ in _characters(token)]
    return characters[0] if len(characters) == 1 else f"({' '.join(characters) or _EMPTY})"


def _class(token: _Token) -> str:
    characters = list(_characters(token))
    if not characters:
        raise GrammarError(f"line {token.line}: an empty class matches nothing")
    ranges = []
    while characters:
        first, _ = last, _ = characters.pop(0)
        if len(characters) > 1 and characters[0] == (ord("-"), False):
            last = characters[1][0]
            del characters[:2]
        if last < first:
            raise GrammarError(f"line {token.line}: the range {chr(first)}-{chr(last)} ends before it begins")
        ranges.append(f"{_spell(first)}-{_spell(last)}")
    return f"/[{'^' if token.negated else ''}{''.join(ranges)}]/"


def _characters(token: _Token) -> Iterator[tuple[int, bool]]:
    """The code points, and whether each was escaped."""
    position = 0
    while position < len(token.text):
        found = _CHARACTER.match(token.text, position)
        if found is None:
            raise GrammarError(f"line {token.line}: {token.text[position : position + 2]!r} is no escape")
        *codes, escaped, plain = found.groups()
        code = next((int(digits, 16) for digits in codes if digits), None)
        if code is None:
            code = ord(plain or _ESCAPES.get(escaped, escaped))
        if code > 0x10FFFF or 0xD800 <= code <= 0xDFFF:
            raise GrammarError(f"line {token.line}: {found[0]!r} is no character")
        yield code, plain is None
        position = found.end()


def _spell(code: int) -> str:
    return f"\\x{{{code:x}}}"
