"""Bearer tokens as --tokens-file holds them, hashed, one a line; `python -m rhapsode_server.tokens` makes one.

    NAME sha256:HEX scopes=generate,score,admin rate=10/s concurrency=4

Scopes and limits may be left out. Empty lines and those that begin with # are skipped. A name may stand on several
lines: while its owner moves from one token to the next, both hold. A hash without salt is safe for tokens made here,
which are random and long, and for nothing that a person has thought of.
"""

import argparse
import hashlib
import re
import secrets
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from rhapsode_server.settings import Parser
from rhapsode_server.values import at_least, read_integer

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,62}")
_HASH = re.compile(r"sha256:([0-9a-f]{64})")
_RATE = re.compile(r"([1-9]\d{0,8})/([smh])")
_SPANS: Mapping[str, int] = {"s": 1, "m": 60, "h": 3600}


class Scope(StrEnum):
    """What a token may do besides listing models and tokenising, which every one may. None implies another."""

    GENERATE = "generate"
    SCORE = "score"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """At most `calls` at once, and so many again in every `seconds`."""

    calls: int
    seconds: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """A line of the file. `digest` is SHA-256 of the token; None: no limit."""

    name: str
    digest: bytes
    scopes: frozenset[Scope] = frozenset()
    rate: Rate | None = None
    concurrency: int | None = None


def digest_of(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def read_tokens(path: Path) -> tuple[Token, ...]:
    """Raises ValueError that names the file and, where it is one, the line."""
    try:
        return parse_tokens(path.read_text("utf-8"))
    except OSError as error:
        raise ValueError(f"--tokens-file: cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"--tokens-file: {path}: {error}") from None


def parse_tokens(text: str) -> tuple[Token, ...]:
    """Raises ValueError that names the line."""
    tokens: dict[bytes, Token] = {}
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip() or line.startswith("#"):
            continue
        try:
            token = parse_line(line)
            if token.digest in tokens:
                raise ValueError(f"the same token as that of {tokens[token.digest].name} further up")
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from None
        tokens[token.digest] = token
    if not tokens:
        # Also what a reader sees of a file that is just being written.
        raise ValueError("holds no token; python -m rhapsode_server.tokens makes one")
    return tuple(tokens.values())


def parse_line(line: str) -> Token:
    """Raises ValueError, which never repeats what may be a token in the wrong place."""
    name, digest, *settings = (*line.split(), "")
    check_name(name)
    match = _HASH.fullmatch(digest)
    if not match:
        raise ValueError(f"after the name {name} belongs sha256: and 64 hexadecimal digits in lower case")
    given: dict[str, str] = {}
    for setting in filter(None, settings):
        key, _, value = setting.partition("=")
        if key not in ("scopes", "rate", "concurrency") or key in given:
            raise ValueError(f"{key!r} is not one of scopes=, rate= and concurrency=, each at most once")
        given[key] = value
    return Token(
        name=name,
        digest=bytes.fromhex(match[1]),
        scopes=_scopes(given["scopes"]) if "scopes" in given else frozenset(),
        rate=_rate(given["rate"]) if "rate" in given else None,
        concurrency=_concurrency(given["concurrency"]) if "concurrency" in given else None,
    )


def check_name(name: str) -> None:
    """Raises ValueError."""
    if not _NAME.fullmatch(name):
        raise ValueError("does not begin with a name: a letter or digit, then up to 62 letters, digits and ._@-")


def _scopes(text: str) -> frozenset[Scope]:
    unknown = set(text.split(",")) - set(Scope)
    if unknown:
        raise ValueError(f"scopes: {min(unknown)!r} is not one of {', '.join(Scope)}")
    return frozenset(map(Scope, text.split(",")))


def _rate(text: str) -> Rate:
    match = _RATE.fullmatch(text)
    if not match:
        raise ValueError(f"rate: {text!r} is not calls a second, minute or hour, such as 10/s, 100/m or 1000/h")
    return Rate(calls=int(match[1]), seconds=_SPANS[match[2]])


def _concurrency(text: str) -> int:
    try:
        number = read_integer(text)
        at_least(1)(number)
    except ValueError as error:
        raise ValueError(f"concurrency: {error}") from None
    return number


def main(arguments: Sequence[str] | None = None) -> int:
    """Make a token: its line goes to standard output, the token itself to standard error, and nothing is kept."""
    parser = Parser(
        prog="python -m rhapsode_server.tokens",
        description="Make a bearer token. Prints its line for --tokens-file, and on standard error the token itself.",
        epilog="Example: python -m rhapsode_server.tokens search --scopes generate,score --rate 10/s >> tokens",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("name", metavar="NAME", help="whose it is, as the log will say")
    parser.add_argument("--scopes", metavar="SCOPES", help=f"some of {','.join(Scope)} (default: none)")
    parser.add_argument("--rate", metavar="RATE", help="calls in a time, such as 10/s, 100/m or 1000/h")
    parser.add_argument("--concurrency", metavar="N", help="calls at the same time")
    given = vars(parser.parse_args(arguments))
    secret = f"rhp_{secrets.token_urlsafe(32)}"
    settings = (f"{key}={given[key]}" for key in ("scopes", "rate", "concurrency") if given[key] is not None)
    line = " ".join((given["name"], f"sha256:{digest_of(secret).hex()}", *settings))
    try:
        check_name(given["name"])
        parse_line(line)
    except ValueError as error:
        parser.error(str(error))
    print(line)
    print(f"The token of {given['name']}, shown this once: {secret}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
