"""How values are typed by a person, on the command line and after /set, and shown again."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of value: `parse(show(value)) == value`."""

    parse: Callable[[str], Any]
    """Raises ValueError with what is wrong, to stand after the name of the value."""
    show: Callable[[Any], str] = str


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"must be a number, not {text!r}")
    return value


def _positive(text: str) -> float:
    if (value := _number(text)) <= 0:
        raise ValueError(f"must be above 0, not {text!r}")
    return value


def _integer(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"must be a whole number, not {text!r}") from None


_SWITCH: Mapping[str, bool] = {"on": True, "true": True, "yes": True, "off": False, "false": False, "no": False}


def _switch(text: str) -> bool:
    if text.lower() not in _SWITCH:
        raise ValueError(f"must be on or off, not {text!r}")
    return _SWITCH[text.lower()]


def _text(text: str) -> str:
    """As it stands, or a JSON string: with line breaks, or with spaces at its ends."""
    value = _json(text) if text.startswith('"') else None
    return value if isinstance(value, str) else text


def _show_text(value: str) -> str:
    is_plain = value == value.strip() and "\n" not in value and not value.startswith(('"', "["))
    return value if is_plain and value else json.dumps(value, ensure_ascii=False)


def _texts(text: str) -> tuple[str, ...]:
    """One text, or a JSON list of them."""
    values = _json(text) if text.startswith("[") else None
    if isinstance(values, list) and all(isinstance(value, str) for value in values):
        return tuple(values)
    return (_text(text),)


def _show_texts(values: Sequence[str]) -> str:
    return _show_text(values[0]) if len(values) == 1 else json.dumps(list(values), ensure_ascii=False)


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _ids(text: str) -> tuple[int, ...]:
    return tuple(_integer(part.strip()) for part in text.split(",") if part.strip())


def _show_ids(values: Sequence[int]) -> str:
    return ",".join(map(str, values))


def _biases(text: str) -> Mapping[int, float]:
    try:
        return {int(token): _number(bias) for token, bias in (part.split("=") for part in text.split(","))}
    except ValueError:
        raise ValueError(f"must be ID=BIAS,ID=BIAS,..., such as 50256=-100, not {text!r}") from None


def _show_biases(values: Mapping[int, float]) -> str:
    return ",".join(f"{token}={bias}" for token, bias in values.items())


def _source(text: str) -> str:
    """A text, or what is in @FILE."""
    if not text.startswith("@"):
        return text
    try:
        return Path(text[1:]).expanduser().read_text("utf-8")
    except OSError as error:
        raise ValueError(f"cannot read {text[1:]}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{text[1:]} is not UTF-8") from None


NUMBER = Kind(parse=_number)
SECONDS = Kind(parse=_positive)
INTEGER = Kind(parse=_integer)
SWITCH = Kind(parse=_switch, show=lambda value: "on" if value else "off")
WORD = Kind(parse=str)
TEXTS = Kind(parse=_texts, show=_show_texts)
IDS = Kind(parse=_ids, show=_show_ids)
BIASES = Kind(parse=_biases, show=_show_biases)
SOURCE = Kind(parse=_source)
