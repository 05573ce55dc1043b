"""Settings of the server: one table, the fields of ServerConfig and of what it extends."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from rhapsode_server.exposure import ExposureConfig
from rhapsode_server.settings import Parser, add_flags, check_fields, load, option
from rhapsode_server.values import (
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


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig(ExposureConfig):
    """Settings of a server. Durations are seconds; None is `off` for a port and `auto` for the size of the KV cache."""

    title: ClassVar[str] = "serving"

    models: Path = option(
        read_directory, None, "DIR", "the model directory to serve; it is watched for new versions", check_no_file
    )
    address: str = option(
        str,
        "127.0.0.1:50051",
        "ADDRESS",
        "where gRPC listens: HOST:PORT (port 0: any free one) or unix:PATH",
        check_address,
    )
    metrics_port: int | None = option(
        read_port,
        "9464",
        "PORT",
        "Prometheus metrics over HTTP, on the host of --address; 0: any free port; or off",
        check_port,
    )
    health_port: int | None = option(
        read_port,
        "off",
        "PORT",
        "a second, plaintext gRPC port with the health service alone; 0: any free port",
        check_port,
    )
    admin_address: str | None = option(
        read_optional_address,
        "127.0.0.1:50052",
        "ADDRESS",
        "where the AdminService listens, for operators alone: HOST:PORT (port 0: any free one), unix:PATH or off",
        check_optional_address,
    )
    device: str = option(
        str, "auto", "DEVICE", "auto (a GPU if there is one), cpu, cpu:THREADS, cuda or cuda:N", check_device
    )
    devices: tuple[str, ...] = option(
        read_devices,
        "",
        "DEVICES",
        "several devices, such as cuda:0,cuda:1 or cpu:4,cpu:4, among which workers are spread; instead of --device",
        check_devices,
    )
    replicas: int = option(
        read_integer, "1", "N", "workers of each version; requests go to the least loaded", at_least(1)
    )
    dtype: str = option(
        str,
        "auto",
        "TYPE",
        "number type of the computation: auto, float32, bfloat16 or float16",
        one_of("auto", "float32", "bfloat16", "float16"),
    )
    quantization: str = option(
        str,
        "none",
        "KIND",
        "none, or int8: weights and activations of linear layers, CPU only",
        one_of("none", "int8"),
    )
    threads: int = option(
        read_integer,
        "0",
        "N",
        "CPU threads of a worker; 0: the cores that the machine and its control group allow, shared by replicas",
        at_least(0),
    )
    max_sequences: int = option(
        read_integer, "64", "N", "requests that run at the same time; the others queue", at_least(1)
    )
    max_batch_tokens: int = option(
        read_integer,
        "512",
        "N",
        "tokens computed in one step; on a CPU, fewer of prompts while others generate, so that they hardly notice",
        at_least(1),
    )
    prefix_cache: bool = option(
        read_switch, "on", "on|off", "take over what other requests have computed of the same beginning of a prompt"
    )
    max_queued_requests: int = option(
        read_integer, "256", "N", "requests that may queue; further ones get RESOURCE_EXHAUSTED", at_least(0)
    )
    max_queued_tokens: int = option(
        read_integer,
        "262144",
        "N",
        "tokens, of prompts and of completions still to come, that may queue; beyond them RESOURCE_EXHAUSTED",
        at_least(0),
    )
    default_max_new_tokens: int = option(
        read_integer, "256", "N", "tokens to generate where a request does not say", at_least(0)
    )
    default_model: str = option(
        str, "", "NAME", "answers requests that name no model; not needed when there is only one"
    )
    kv_cache_memory: int | None = option(
        read_bytes, "auto", "BYTES", "memory of the KV cache of one version, such as 2GiB; or auto", at_least(1)
    )
    device_memory_fraction: float = option(
        read_number,
        "0.45",
        "FRACTION",
        "of a device's memory that one worker may take; two must fit beside each other during a swap",
        check_fraction,
    )
    poll_interval: float = option(
        read_seconds, "5s", "DURATION", "time between two looks at the model directory", at_least(0.001)
    )
    probation: float = option(
        read_seconds,
        "10m",
        "DURATION",
        "time after a swap in which the version before stays warm, and a new one that fails is rolled back",
        at_least(0),
    )
    max_error_rate: float = option(
        read_number,
        "0.05",
        "FRACTION",
        "of requests that may fail during probation before a version is rolled back",
        check_fraction,
    )
    max_slowdown: float = option(
        read_number,
        "3",
        "FACTOR",
        "by which a version may be slower than the one before it, a step, before it is rolled back",
        at_least(1),
    )
    standby: bool = option(
        read_switch, "on", "on|off", "keep a process ready that has imported what the next worker needs"
    )
    load_timeout: float = option(
        read_seconds, "5m", "DURATION", "time for a version to load and be proven", at_least(0.001)
    )
    step_timeout: float = option(
        read_seconds,
        "30s",
        "DURATION",
        "time without a sign of life after which a worker is taken for hung",
        at_least(0.1),
    )
    state_dir: Path | None = option(
        read_optional_directory,
        "",
        "DIR",
        "where an operator's decisions for this server are kept; else lost at its end",
        check_no_file,
    )
    feedback_dir: Path | None = option(
        read_optional_directory,
        "",
        "DIR",
        "where verdicts on versions are written, for the trainer's gate to read",
        check_no_file,
    )
    shutdown_delay: float = option(
        read_seconds,
        "0s",
        "DURATION",
        "time for which calls are still accepted after SIGTERM, with health NOT_SERVING",
        at_least(0),
    )
    drain_timeout: float = option(
        read_seconds,
        "60s",
        "DURATION",
        "time for open calls to finish at shutdown, before they are cancelled",
        at_least(0),
    )

    def __post_init__(self) -> None:
        check_fields(self)
        self.check_exposure()
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


def load_config(arguments: Sequence[str], environment: Mapping[str, str]) -> ServerConfig:
    """The settings that flags, else environment, else defaults give. Prints what is wrong and exits with 2."""
    parser = Parser(
        prog="rhapsode-serve",
        description="Serve the language models of a model directory over gRPC.",
        epilog="Exit codes: 0 stopped by SIGTERM or SIGINT, 2 bad configuration or an address in use, 1 a failure.",
        allow_abbrev=False,
    )
    add_flags(parser, ServerConfig)
    return load(ServerConfig, parser, vars(parser.parse_args(arguments)), environment)
