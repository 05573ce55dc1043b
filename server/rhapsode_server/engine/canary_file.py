"""canary.json of a version: what its publisher recorded of the model and its tokenizer. Imports no torch."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rhapsode_server.engine.refusal import CANARY_OFF, ModelRefused

NAME = "canary.json"
SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """A text and the ids that the publisher's tokenizer gave it, without added special tokens."""

    text: str
    ids: list[int]

    def __post_init__(self) -> None:
        if not isinstance(self.text, str):
            raise ValueError(f"tokenizer.probes: the text {self.text!r} is not a text")
        _check_ids("tokenizer.probes", self.ids)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerRecord:
    """`sha256` is that of tokenizer.json, in hexadecimal."""

    sha256: str
    probes: Sequence[Probe]


@dataclass(frozen=True, slots=True, kw_only=True)
class Canary:
    """A greedy continuation; of each of its T tokens the log-probability (natural, temperature 1, whole vocabulary) and
    the margin between the best and the second best, teacher-forced in float32. Old files lack `tokenizer`."""

    prompt_ids: Sequence[int]
    continuation_ids: Sequence[int]
    logprobs: Sequence[float]
    margins: Sequence[float]
    tokenizer: TokenizerRecord | None

    def __post_init__(self) -> None:
        for name in ("prompt_ids", "continuation_ids"):
            _check_ids(name, getattr(self, name))
            _require(len(getattr(self, name)) > 0, name, "is empty")
        for name in ("logprobs", "margins"):
            _check_numbers(name, getattr(self, name), count=len(self.continuation_ids))

    @property
    def fed_ids(self) -> list[int]:
        """Prompt and continuation, less the last token, which is only predicted."""
        return [*self.prompt_ids, *self.continuation_ids[:-1]]


def read_canary(path: Path) -> Canary | None:
    """Of the version at `path`; None if it was published without. Raises ModelRefused naming the field at fault."""
    try:
        return _parse(json.loads((path / NAME).read_bytes()))
    except FileNotFoundError:
        return None
    except KeyError as error:
        raise ModelRefused(CANARY_OFF, f"{NAME}: {error.args[0]} is missing") from error
    except (ValueError, OSError, RecursionError) as error:
        raise ModelRefused(CANARY_OFF, f"{NAME}: {error}") from error


def _parse(document: Any) -> Canary:
    _require(isinstance(document, Mapping), "the document", "is not an object")
    version = document["schema_version"]
    _require(version == SCHEMA_VERSION, "schema_version", f"is {version!r}, not {SCHEMA_VERSION}")
    return Canary(
        prompt_ids=document["prompt_ids"],
        continuation_ids=document["continuation_ids"],
        logprobs=document["logprobs"],
        margins=document["margins"],
        tokenizer=_parse_tokenizer(document["tokenizer"]) if document.get("tokenizer") is not None else None,
    )


def _parse_tokenizer(record: Any) -> TokenizerRecord:
    _require(isinstance(record, Mapping), "tokenizer", "is not an object")
    probes = record["probes"]
    _require(isinstance(probes, list) and all(isinstance(each, Mapping) for each in probes), "probes", "are no objects")
    return TokenizerRecord(
        sha256=record["sha256"], probes=[Probe(text=each["text"], ids=each["ids"]) for each in probes]
    )


def _check_ids(name: str, ids: Any) -> None:
    _require(isinstance(ids, list) and all(type(id_) is int and id_ >= 0 for id_ in ids), name, "is no list of ids")


def _check_numbers(name: str, numbers: Any, *, count: int) -> None:
    _require(isinstance(numbers, list) and all(map(_is_finite, numbers)), name, "is no list of finite numbers")
    _require(len(numbers) == count, name, f"has {len(numbers)} numbers for {count} tokens")


def _is_finite(number: Any) -> bool:
    """Also whether a float holds it: JSON has larger integers."""
    return type(number) in (int, float) and abs(number) <= sys.float_info.max


def _require(condition: bool, name: str, problem: str) -> None:
    if not condition:
        raise ValueError(f"{name} {problem}")
