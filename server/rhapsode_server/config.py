"""Settings of the server: one table, the fields of ServerConfig, from which flags, environment and --help come."""

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from rhapsode_server.values import (
    accept_any,
    at_least,
    check_address,
    check_device,
    check_devices,
    check_fraction,
    check_no_file,
    check_optional_address,
    check_port,
    one_of,
    read_bytes,
    read_devices,
    read_directory,
    read_integer,
    read_number,
    read_optional_address,
    read_optional_directory,
    read_port,
    read_seconds,
    read_switch,
)

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Option:
    """How users write a field: `parse` reads texts, the default's among them; `check` raises ValueError for a value."""

    parse: Callable[[str], Any]
    default: str | None
    unit: str
    help: str
    check: Callable[[Any], None]


def _option(
    parse: Callable[[str], T], default: str | None, unit: str, help: str, check: Callable[[T], None] = accept_any
) -> T:
    metadata = {"option": _Option(parse=parse, default=default, unit=unit, help=help, check=check)}
    made: T = field(metadata=metadata) if default is None else field(default=parse(default), metadata=metadata)
    return made


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """Settings of a server. Durations are seconds; None is `off` for a port and `auto` for the size of the KV cache."""

    models: Path = _option(
        read_directory, None, "DIR", "the model directory to serve; it is watched for new versions", check_no_file
    )
    address: str = _option(
        str,
        "127.0.0.1:50051",
        "ADDRESS",
        "where gRPC listens: HOST:PORT (port 0: any free one) or unix:PATH",
        check_address,
    )
    metrics_port: int | None = _option(
        read_port,
        "9464",
        "PORT",
        "Prometheus metrics over HTTP, on the host of --address; 0: any free port; or off",
        check_port,
    )
    health_port: int | None = _option(
        read_port,
        "off",
        "PORT",
        "a second, plaintext gRPC port with the health service alone; 0: any free port",
        check_port,
    )
    admin_address: str | None = _option(
        read_optional_address,
        "127.0.0.1:50052",
        "ADDRESS",
        "where the AdminService listens, for operators alone: HOST:PORT (port 0: any free one), unix:PATH or off",
        check_optional_address,
    )
    device: str = _option(
        str, "auto", "DEVICE", "auto (a GPU if there is one), cpu, cpu:THREADS, cuda or cuda:N", check_device
    )
    devices: tuple[str, ...] = _option(
        read_devices,
        "",
        "DEVICES",
        "several devices, such as cuda:0,cuda:1 or cpu:4,cpu:4, among which workers are spread; instead of --device",
        check_devices,
    )
    replicas: int = _option(
        read_integer, "1", "N", "workers of each version; requests go to the least loaded", at_least(1)
    )
    dtype: str = _option(
        str,
        "auto",
        "TYPE",
        "number type of the computation: auto, float32, bfloat16 or float16",
        one_of("auto", "float32", "bfloat16", "float16"),
    )
    quantization: str = _option(
        str,
        "none",
        "KIND",
        "none, or int8: weights and activations of linear layers, CPU only",
        one_of("none", "int8"),
    )
    threads: int = _option(
        read_integer,
        "0",
        "N",
        "CPU threads of a worker; 0: the cores that the machine and its control group allow, shared by replicas",
        at_least(0),
    )
    max_sequences: int = _option(
        read_integer, "64", "N", "requests that run at the same time; the others queue", at_least(1)
    )
    max_batch_tokens: int = _option(
        read_integer,
        "512",
        "N",
        "tokens computed in one step; on a CPU, fewer of prompts while others generate, so that they hardly notice",
        at_least(1),
    )
    prefix_cache: bool = _option(
        read_switch, "on", "on|off", "take over what other requests have computed of the same beginning of a prompt"
    )
    max_queued_requests: int = _option(
        read_integer, "256", "N", "requests that may queue; further ones get RESOURCE_EXHAUSTED", at_least(0)
    )
    max_queued_tokens: int = _option(
        read_integer,
        "262144",
        "N",
        "tokens, of prompts and of completions still to come, that may queue; beyond them RESOURCE_EXHAUSTED",
        at_least(0),
    )
    default_max_new_tokens: int = _option(
        read_integer, "256", "N", "tokens to generate where a request does not say", at_least(0)
    )
    default_model: str = _option(
        str, "", "NAME", "answers requests that name no model; not needed when there is only one"
    )
    kv_cache_memory: int | None = _option(
        read_bytes, "auto", "BYTES", "memory of the KV cache of one version, such as 2GiB; or auto", at_least(1)
    )
    device_memory_fraction: float = _option(
        read_number,
        "0.45",
        "FRACTION",
        "of a device's memory that one worker may take; two must fit beside each other during a swap",
        check_fraction,
    )
    poll_interval: float = _option(
        read_seconds, "5s", "DURATION", "time between two looks at the model directory", at_least(0.001)
    )
    probation: float = _option(
        read_seconds,
        "10m",
        "DURATION",
        "time after a swap in which the version before stays warm, and a new one that fails is rolled back",
        at_least(0),
    )
    max_error_rate: float = _option(
        read_number,
        "0.05",
        "FRACTION",
        "of requests that may fail during probation before a version is rolled back",
        check_fraction,
    )
    max_slowdown: float = _option(
        read_number,
        "3",
        "FACTOR",
        "by which a version may be slower than the one before it, a step, before it is rolled back",
        at_least(1),
    )
    standby: bool = _option(
        read_switch, "on", "on|off", "keep a process ready that has imported what the next worker needs"
    )
    load_timeout: float = _option(
        read_seconds, "5m", "DURATION", "time for a version to load and be proven", at_least(0.001)
    )
    step_timeout: float = _option(
        read_seconds,
        "30s",
        "DURATION",
        "time without a sign of life after which a worker is taken for hung",
        at_least(0.1),
    )
    state_dir: Path | None = _option(
        read_optional_directory,
        "",
        "DIR",
        "where an operator's decisions for this server are kept; else lost at its end",
        check_no_file,
    )
    feedback_dir: Path | None = _option(
        read_optional_directory,
        "",
        "DIR",
        "where verdicts on versions are written, for the trainer's gate to read",
        check_no_file,
    )
    shutdown_delay: float = _option(
        read_seconds,
        "0s",
        "DURATION",
        "time for which calls are still accepted after SIGTERM, with health NOT_SERVING",
        at_least(0),
    )
    drain_timeout: float = _option(
        read_seconds,
        "60s",
        "DURATION",
        "time for open calls to finish at shutdown, before they are cancelled",
        at_least(0),
    )
    log_format: str = _option(
        str, "text", "FORMAT", "format of the log on stderr: text or json", one_of("text", "json")
    )

    def __post_init__(self) -> None:
        for each in fields(self):
            with _named(each):
                each.metadata["option"].check(getattr(self, each.name))
        if self.quantization == "int8" and any(each.startswith("cuda") for each in self.all_devices):
            raise ValueError("--quantization: int8 is computed on the CPU only; give --device cpu, or none")
        if self.quantization == "int8" and self.dtype not in ("auto", "float32"):
            raise ValueError("--quantization: int8 is computed beside float32; give --dtype float32, or none")
        if self.devices and self.device != "auto":
            raise ValueError("--devices: takes the place of --device; give one of them")
        if self.max_batch_tokens < self.max_sequences:
            # Else not every running sequence could take part in every step.
            raise ValueError(f"--max-batch-tokens: must be at least --max-sequences, {self.max_sequences}")

    @property
    def all_devices(self) -> tuple[str, ...]:
        """Where workers may run."""
        return self.devices or (self.device,)

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
