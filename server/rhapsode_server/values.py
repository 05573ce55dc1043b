"""How the values of settings are written: readers of texts, and checks. All raise ValueError saying what to write."""

import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path

_BYTES = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_SECONDS = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_ADDRESS = re.compile(r"unix:.+|(?:\[[\w:.%]+\]|[^:\[\]/\s]+):(\d{1,5})")
_DEVICE = re.compile(r"auto|cpu(:[1-9]\d{0,3})?|cuda(:\d+)?")


def read_integer(text: str) -> int:
    if not text.isascii() or not text.isdecimal():
        raise ValueError(f"{text!r} is not a whole number")
    return int(text)


def read_number(text: str) -> float:
    if not re.fullmatch(r"\d+(\.\d+)?", text, re.ASCII):
        raise ValueError(f"{text!r} is not a number; write it such as 3 or 0.05")
    return float(text)


def read_switch(text: str) -> bool:
    if text not in ("on", "off"):
        raise ValueError(f"{text!r} is neither on nor off")
    return text == "on"


def read_bytes(text: str) -> int | None:
    """None: `auto`."""
    if text == "auto":
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([A-Za-z]*)", text)
    if not match or match[2] not in _BYTES:
        raise ValueError(f"{text!r} is not a size; write a number with its unit, such as 2GiB or 500MB")
    return int(float(match[1]) * _BYTES[match[2]])


def read_seconds(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h)", text)
    if not match:
        raise ValueError(f"{text!r} is not a duration; write a number with its unit, such as 500ms, 5s or 10m")
    return float(match[1]) * _SECONDS[match[2]]


def read_optional_seconds(text: str) -> float | None:
    """None: `off`."""
    return None if text == "off" else read_seconds(text)


def read_optional_file(text: str) -> Path | None:
    """None: an empty text."""
    return Path(text) if text else None


def read_names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(",")) if text else ()
    if not all(names):
        raise ValueError(f"{text!r} has an empty name; write them such as a,b")
    return names


def read_directory(text: str) -> Path:
    # Path would take an empty text for the working directory.
    if not text.strip():
        raise ValueError("is empty; give a directory, such as ./models")
    return Path(text)


def read_optional_directory(text: str) -> Path | None:
    """None: an empty text."""
    return read_directory(text) if text else None


def read_port(text: str) -> int | None:
    """None: `off`."""
    return None if text == "off" else read_integer(text)


def read_optional_address(text: str) -> str | None:
    """None: `off`."""
    return None if text == "off" else text


def read_devices(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",")) if text else ()


def accept_any(_: object) -> None:
    """Every value will do."""


def at_least(minimum: float) -> Callable[[float | None], None]:
    def check(value: float | None) -> None:
        if value is not None and not minimum <= value < math.inf:
            raise ValueError(f"{value} is less than {minimum}")

    return check


def one_of(*choices: str) -> Callable[[str], None]:
    def check(value: str) -> None:
        if value not in choices:
            raise ValueError(f"{value!r} is not one of {', '.join(choices)}")

    return check


def check_fraction(value: float) -> None:
    if not 0 < value <= 1:
        raise ValueError(f"{value} is not above 0 and at most 1")


def check_port(value: int | None) -> None:
    if value is not None and not 0 <= value <= 65535:
        raise ValueError(f"{value} is not a port; write a number from 0 (any free port) to 65535, or off")


def check_address(value: str) -> None:
    match = _ADDRESS.fullmatch(value)
    if not match or int(match[1] or 0) > 65535:
        raise ValueError(f"{value!r} is not an address; write HOST:PORT, such as 127.0.0.1:50051, or unix:PATH")


def check_endpoint(value: str) -> None:
    if value and not re.fullmatch(r"https?://[^\s/]+(/\S*)?", value):
        raise ValueError(f"{value!r} is not a URL; write it such as http://127.0.0.1:4317")


def check_optional_address(value: str | None) -> None:
    if value is not None:
        check_address(value)


def check_device(value: str) -> None:
    if not _DEVICE.fullmatch(value):
        raise ValueError(f"{value!r} is not a device; write auto, cpu, cpu:THREADS, cuda or cuda:N")


def check_devices(value: Sequence[str]) -> None:
    for each in value:
        check_device(each)


def check_no_file(value: Path | None) -> None:
    if value is not None and value.is_file():
        raise ValueError(f"{value} is a file; give a directory")
