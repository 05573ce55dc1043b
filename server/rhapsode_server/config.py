"""Settings of the server: one table, the fields of ServerConfig, from which flags, environment and --help come."""

import argparse
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any, NoReturn, TypeVar

T = TypeVar("T")

_BYTES = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_SECONDS = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_ADDRESS = re.compile(r"unix:.+|(?:\[[\w:.%]+\]|[^:\[\]/\s]+):(\d{1,5})")
_DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")


def _anything(_: object) -> None:
    """Every value will do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Option:
    """How users write a field: `parse` reads texts, the default's among them; `check` raises ValueError for a value."""

    parse: Callable[[str], Any]
    default: str | None
    unit: str
    help: str
    check: Callable[[Any], None]


def _option(
    parse: Callable[[str], T], default: str | None, unit: str, help: str, check: Callable[[T], None] = _anything
) -> T:
    metadata = {"option": _Option(parse=parse, default=default, unit=unit, help=help, check=check)}
    made: T = field(metadata=metadata) if default is None else field(default=parse(default), metadata=metadata)
    return made


def _integer(text: str) -> int:
    if not text.isascii() or not text.isdecimal():
        raise ValueError(f"{text!r} is not a whole number")
    return int(text)


def _directory(text: str) -> Path:
    # Path would take an empty text for the working directory.
    if not text.strip():
        raise ValueError("is empty; give the directory that holds the models, such as ./models")
    return Path(text)


def _port(text: str) -> int | None:
    return None if text == "off" else _integer(text)


def _bytes(text: str) -> int | None:
    if text == "auto":
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([A-Za-z]*)", text)
    if not match or match[2] not in _BYTES:
        raise ValueError(f"{text!r} is not a size; write a number with its unit, such as 2GiB or 500MB")
    return int(float(match[1]) * _BYTES[match[2]])


def _seconds(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h)", text)
    if not match:
        raise ValueError(f"{text!r} is not a duration; write a number with its unit, such as 500ms, 5s or 10m")
    return float(match[1]) * _SECONDS[match[2]]


def _at_least(minimum: float) -> Callable[[float | None], None]:
    def check(value: float | None) -> None:
        if value is not None and not minimum <= value < math.inf:
            raise ValueError(f"{value} is less than {minimum}")

    return check


def _one_of(*choices: str) -> Callable[[str], None]:
    def check(value: str) -> None:
        if value not in choices:
            raise ValueError(f"{value!r} is not one of {', '.join(choices)}")

    return check


def _is_port(value: int | None) -> None:
    if value is not None and not 0 <= value <= 65535:
        raise ValueError(f"{value} is not a port; write a number from 0 (any free port) to 65535, or off")


def _is_address(value: str) -> None:
    match = _ADDRESS.fullmatch(value)
    if not match or int(match[1] or 0) > 65535:
        raise ValueError(f"{value!r} is not an address; write HOST:PORT, such as 127.0.0.1:50051, or unix:PATH")


def _is_device(value: str) -> None:
    if not _DEVICE.fullmatch(value):
        raise ValueError(f"{value!r} is not a device; write auto, cpu, cuda or cuda:N")


def _is_no_file(value: Path) -> None:
    if value.is_file():
        raise ValueError(f"{value} is a file; give the directory that holds the models")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """Settings of a server. Durations are seconds; None is `off` for a port and `auto` for the size of the KV cache."""

    models: Path = _option(  # noqa: RUF009  (it is dataclasses.field in disguise)
        _directory, None, "DIR", "the model directory to serve; it is watched for new versions", _is_no_file
    )
    address: str = _option(
        str,
        "127.0.0.1:50051",
        "ADDRESS",
        "where gRPC listens: HOST:PORT (port 0: any free one) or unix:PATH",
        _is_address,
    )
    metrics_port: int | None = _option(
        _port,
        "9464",
        "PORT",
        "Prometheus metrics over HTTP, on the host of --address; 0: any free port; or off",
        _is_port,
    )
    health_port: int | None = _option(
        _port, "off", "PORT", "a second, plaintext gRPC port with the health service alone; 0: any free port", _is_port
    )
    device: str = _option(str, "auto", "DEVICE", "auto (a GPU if there is one), cpu, cuda or cuda:N", _is_device)
    dtype: str = _option(
        str,
        "auto",
        "TYPE",
        "number type of the computation: auto, float32, bfloat16 or float16",
        _one_of("auto", "float32", "bfloat16", "float16"),
    )
    threads: int = _option(_integer, "0", "N", "CPU threads of the computation; 0: all", _at_least(0))
    max_sequences: int = _option(
        _integer, "64", "N", "requests that run at the same time; the others queue", _at_least(1)
    )
    max_batch_tokens: int = _option(_integer, "512", "N", "tokens computed in one step", _at_least(1))
    max_queued_requests: int = _option(
        _integer, "256", "N", "requests that may queue; further ones get RESOURCE_EXHAUSTED", _at_least(0)
    )
    max_queued_tokens: int = _option(
        _integer,
        "262144",
        "N",
        "tokens, of prompts and of completions still to come, that may queue; beyond them RESOURCE_EXHAUSTED",
        _at_least(0),
    )
    default_max_new_tokens: int = _option(
        _integer, "256", "N", "tokens to generate where a request does not say", _at_least(0)
    )
    default_model: str = _option(
        str, "", "NAME", "answers requests that name no model; not needed when there is only one"
    )
    kv_cache_memory: int | None = _option(
        _bytes, "auto", "BYTES", "memory of the KV cache of one version, such as 2GiB; or auto", _at_least(1)
    )
    poll_interval: float = _option(
        _seconds, "5s", "DURATION", "time between two looks at the model directory", _at_least(0.001)
    )
    shutdown_delay: float = _option(
        _seconds,
        "0s",
        "DURATION",
        "time for which calls are still accepted after SIGTERM, with health NOT_SERVING",
        _at_least(0),
    )
    drain_timeout: float = _option(
        _seconds,
        "60s",
        "DURATION",
        "time for open calls to finish at shutdown, before they are cancelled",
        _at_least(0),
    )
    log_format: str = _option(
        str, "text", "FORMAT", "format of the log on stderr: text or json", _one_of("text", "json")
    )

    def __post_init__(self) -> None:
        for each in fields(self):
            with _named(each):
                each.metadata["option"].check(getattr(self, each.name))
        if self.max_batch_tokens < self.max_sequences:
            # Else not every running sequence could take part in every step.
            raise ValueError(f"--max-batch-tokens: must be at least --max-sequences, {self.max_sequences}")

    @property
    def host(self) -> str:
        """The host of `address`, for the other ports; loopback when that is a Unix socket."""
        return "127.0.0.1" if self.address.startswith("unix:") else self.address.rpartition(":")[0].strip("[]")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\nSee {self.prog} --help.\n")


def load_config(arguments: Sequence[str], environment: Mapping[str, str]) -> ServerConfig:
    """The settings that flags, else environment, else defaults give. Prints what is wrong and exits with 2."""
    parser = _parser()
    flags = vars(parser.parse_args(arguments))
    try:
        return ServerConfig(**dict(_given(flags, environment)))
    except ValueError as error:
        parser.error(str(error))


def _given(flags: Mapping[str, str | None], environment: Mapping[str, str]) -> Iterator[tuple[str, Any]]:
    for each in fields(ServerConfig):
        option: _Option = each.metadata["option"]
        # An empty variable is an unset one: compose files and manifests often pass them on so.
        text = flags[each.name] if flags[each.name] is not None else environment.get(_variable(each)) or None
        with _named(each):
            if text is not None:
                yield each.name, option.parse(text)
            elif option.default is None:
                raise ValueError(f"missing; give {_flag(each)} {option.unit} or set {_variable(each)}")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="rhapsode-serve",
        description="Serve the language models of a model directory over gRPC.",
        epilog="Exit codes: 0 stopped by SIGTERM or SIGINT, 2 bad configuration or an address in use, 1 a failure.",
        allow_abbrev=False,
    )
    for each in fields(ServerConfig):
        option: _Option = each.metadata["option"]
        default = "required" if option.default is None else f"default: {option.default or 'none'}"
        parser.add_argument(_flag(each), metavar=option.unit, help=f"{option.help} ({default}; {_variable(each)})")
    return parser


@contextmanager
def _named(each: "Field[Any]") -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{_flag(each)}: {error}") from None


def _flag(each: "Field[Any]") -> str:
    return "--" + each.name.replace("_", "-")


def _variable(each: "Field[Any]") -> str:
    return "RHAPSODE_" + each.name.upper()
