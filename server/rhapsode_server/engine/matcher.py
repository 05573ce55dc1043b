"""A constraint in the hands of llguidance, token by token. Only processes that constrain import this module.

Every matcher is built anew: copies of one would share the states of its automaton, and with them the limit on how many
there may be, so that one completion could spend what another needs.
"""

import json
import re
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

from llguidance import LLMatcher, LLParserLimits, LLTokenizer, regex_to_lark

from rhapsode_server.engine.gbnf import to_lark
from rhapsode_server.engine.refusal import BadConstraint
from rhapsode_server.engine.request import Constraint

# Processor time that a token may take: everybody else in the batch waits for it. And the mean of about the last 50.
MAX_TOKEN_SECONDS = 0.1
MAX_MEAN_SECONDS = 0.01
_MEAN_OF = 50
# llguidance's own defaults but for the states of the automaton, which take up to a kilobyte each: about 16 MiB at most.
_LIMITS = LLParserLimits(max_lexer_states=20_000, verbose_errors=False)
# Where only one text may follow, llguidance would allow but one way to spell it.
_OPTIONS = '%llguidance {"no_forcing": true}'
_REGEX_SPECIAL, _ESCAPED = re.compile(r"[\\.+*?()|\[\]{}^$#&~-]"), r"\\\g<0>"
_LONE_BACKSLASH = re.compile(r"(?<!\\)(\\\\)*\\\Z")
_POSITION = re.compile(r"^(at )?\d+\(\d+\): (failed to compile JSON schema: )?")
_LIMIT_REACHED = re.compile("fuel|too many|too large|too deep|max is|panic|recursion limit")
_MAX_DETAIL_LENGTH = 300


def translate(constraint: Constraint) -> str:
    """The constraint as a Lark grammar of llguidance, not checked beyond its outer form. Raises BadConstraint."""
    try:
        return f"{_OPTIONS}\n{_translate(constraint)}"
    except RecursionError:
        raise BadConstraint("it is nested too deep") from None
    except ValueError as error:
        raise BadConstraint(str(error)) from error


def _translate(constraint: Constraint) -> str:
    match constraint.kind:
        case "json_schema":
            json.loads(constraint.source, parse_constant=_refuse_constant)
            return f"start: %json {constraint.source}"
        case "regex":
            if _LONE_BACKSLASH.search(constraint.source):  # which llguidance passes over
                raise ValueError("the last character is a backslash that escapes nothing")
            return f"start: /{regex_to_lark(constraint.source, '')}/"
        case "choices":
            texts: list[str] = json.loads(constraint.source)
            return f"start: /{regex_to_lark('|'.join(_REGEX_SPECIAL.sub(_ESCAPED, text) for text in texts), '')}/"
        case "grammar":
            return to_lark(constraint.source)
    raise AssertionError(constraint.kind)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


class Vocabulary:
    """The bytes of every token of a version, for llguidance.

    Special tokens fit no form. Neither do, in a vocabulary with gaps, ids at or above the number of its tokens.
    """

    def __init__(self, tokenizer_file: Path, size: int) -> None:
        """Raises BadConstraint for a tokenizer whose tokens do not stand for bytes."""
        self.size = size
        self.num_mask_bytes = -(-size // 32) * 4
        try:
            # llguidance wants an end token: one behind all others is in nobody's way.
            self.tokenizer = LLTokenizer(_plain_spelling(tokenizer_file), n_vocab=size + 1, eos_token=size)
        except ValueError as error:
            raise BadConstraint(f"the tokenizer of this version cannot follow a form: {error}") from error

    def matcher(self, grammar: str, end_ids: Collection[int]) -> "Matcher":
        """Follow a grammar of `translate`; `end_ids` end the completion. Raises BadConstraint."""
        return Matcher(LLMatcher(self.tokenizer, grammar, log_level=0, limits=_LIMITS), self, end_ids)


def _plain_spelling(tokenizer_file: Path) -> str:
    """The tokenizer.json, with a Metaspace decoder, which llguidance does not know, replaced by what it does."""
    spec: dict[str, Any] = json.loads(tokenizer_file.read_text(encoding="utf-8"))
    decoder = spec.get("decoder") or {}
    steps = decoder.get("decoders", [decoder])
    if space := next((step["replacement"] for step in steps if step.get("type") == "Metaspace"), None):
        replace = {"type": "Replace", "pattern": {"String": space}, "content": " "}
        spec["decoder"] = {"type": "Sequence", "decoders": [replace, {"type": "ByteFallback"}, {"type": "Fuse"}]}
    return json.dumps(spec)


class Matcher:
    """One completion on its way through a form. After BadConstraint it is of no more use."""

    def __init__(self, inner: LLMatcher, vocabulary: Vocabulary, end_ids: Collection[int]) -> None:
        self._inner = inner
        self._vocabulary = vocabulary
        self._end_ids = [token_id for token_id in end_ids if token_id < vocabulary.size]
        self._num_accepted = 0
        self._mean_seconds = 0.0
        self._check()
        self._look()

    @property
    def is_complete(self) -> bool:
        """Whether nothing but the end may follow."""
        return not self._may_go_on

    def allowed_mask(self) -> bytes:
        """What may follow, as `Draw.allowed_mask`; the end ids are in it where the text so far has the form."""
        return self._mask

    def accept(self, token_id: int) -> None:
        """Go on by a token. Raises BadConstraint if it does not fit, nothing fits after it, or it takes too long."""
        began = time.thread_time()
        self._inner.consume_token(token_id)
        self._check()
        self._num_accepted += 1
        self._look()
        self._note_time(time.thread_time() - began)

    def _note_time(self, seconds: float) -> None:
        self._mean_seconds += (seconds - self._mean_seconds) / _MEAN_OF
        if seconds > MAX_TOKEN_SECONDS:
            raise BadConstraint(f"it is too complex: a token takes more than {1000 * MAX_TOKEN_SECONDS:.0f} ms")
        if self._mean_seconds > MAX_MEAN_SECONDS:
            raise BadConstraint(f"it is too complex: tokens take more than {1000 * MAX_MEAN_SECONDS:.0f} ms each")

    def _look(self) -> None:
        mask = bytearray(self._inner.compute_bitmask())
        self._check()
        may_end = _take_bit(mask, self._vocabulary.size)
        del mask[self._vocabulary.num_mask_bytes :]
        for token_id in self._end_ids:
            _take_bit(mask, token_id)
        self._may_go_on = mask.count(0) < len(mask)
        if may_end:
            for token_id in self._end_ids:
                mask[token_id >> 3] |= 1 << (token_id & 7)
        elif not self._may_go_on:
            raise BadConstraint(f"after {self._num_accepted} tokens, no token of this version fits it")
        self._mask = bytes(mask)

    def _check(self) -> None:
        if self._inner.is_error():
            raise BadConstraint(_explain(self._inner.get_error()))


def _take_bit(mask: bytearray, index: int) -> bool:
    """Clear a bit; whether it was set."""
    was_set = bool(mask[index >> 3] >> (index & 7) & 1)
    mask[index >> 3] &= ~(1 << (index & 7)) & 0xFF
    return was_set


def _explain(error: str) -> str:
    """The one line of the library's error that says what is wrong."""
    lines = error.splitlines()
    told = next((line.removeprefix("error: ") for line in lines if line.startswith("error: ")), lines[0])
    text = _POSITION.sub("", told)[:_MAX_DETAIL_LENGTH]
    if text.startswith("NoExtension"):
        return "no text has this form"
    return f"it is too complex: {text}" if _LIMIT_REACHED.search(text) else text
