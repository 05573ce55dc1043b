"""The values of parameters, by what they must be. Each raises InvalidRequest with the parameter's name."""

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NoReturn

from rhapsode_server.errors import InvalidRequest
from rhapsode_server.rpc.openai.errors import BODY

Object = Mapping[str, Any]

_SEEDS = range(-(2**63), 2**64)
_UINT32 = range(2**32)


def read_object(body: bytes) -> Object:
    """The parameters that a body sets: null is as good as not there."""
    try:
        value = json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise InvalidRequest.of(BODY, "is not JSON") from None
    if not isinstance(value, dict):
        raise InvalidRequest.of(BODY, "is not a JSON object")
    return {name: each for name, each in value.items() if each is not None}


def number(name: str, value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        _refuse(name, "a number")
    try:
        return float(value)
    except OverflowError:
        _refuse(name, "a number of a sensible size")


def count(name: str, value: Any) -> int:
    if type(value) is not int or value not in _UINT32:
        _refuse(name, "a whole number from 0 on")
    return int(value)


def seed(name: str, value: Any) -> int:
    """Of negative ones the 64 bits."""
    if type(value) is not int or value not in _SEEDS:
        _refuse(name, "a whole number of 64 bits")
    return int(value) % 2**64


def switch(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        _refuse(name, "true or false")
    return value


def text(name: str, value: Any) -> str:
    """Half of a surrogate pair is no text."""
    if not isinstance(value, str):
        _refuse(name, "a text")
    try:
        value.encode()
    except UnicodeEncodeError:
        _refuse(name, "a text of whole Unicode characters")
    return value


def listed(name: str, value: Any) -> Sequence[Any]:
    if not isinstance(value, list):
        _refuse(name, "a list")
    return value


def mapped(name: str, value: Any) -> Object:
    if not isinstance(value, dict):
        _refuse(name, "an object")
    return value


def known(name: str, value: Any, keys: Collection[str]) -> Object:
    """An object with none but these keys: null is as good as not there."""
    given = {key: each for key, each in mapped(name, value).items() if each is not None}
    check_known(given, keys, of=f"{name}.")
    return given


def token_ids(name: str, value: Sequence[Any]) -> list[int]:
    if not all(type(each) is int and each in _UINT32 for each in value):
        _refuse(name, "a list of token ids")
    return list(value)


def check_known(given: Object, names: Collection[str], *, of: str = "") -> None:
    """Raises InvalidRequest for the first that is not, under no name of its own: the log shows names of parameters."""
    unknown = next((name for name in given if name not in names), None)
    if unknown is not None:
        raise InvalidRequest.of(BODY, f"{of}{unknown[:64]!a} is not supported; there are {', '.join(names)}")


def _refuse(name: str, wanted: str) -> NoReturn:
    raise InvalidRequest.of(name, f"must be {wanted}")


def _refuse_constant(constant: str) -> NoReturn:
    """JSON has no NaN and no infinities, although Python reads them."""
    raise ValueError(constant)
