"""Settings of a server that others can reach: who may call it, how long they may stay, and what it tells of itself."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from rhapsode_server.settings import option
from rhapsode_server.values import (
    at_least,
    check_endpoint,
    check_optional_address,
    one_of,
    read_integer,
    read_names,
    read_optional_address,
    read_optional_file,
    read_optional_seconds,
    read_switch,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExposureConfig:
    """Durations are seconds; None is `off`."""

    title: ClassVar[str] = "access and observation"

    openai_address: str | None = option(
        read_optional_address,
        "off",
        "ADDRESS",
        "where HTTP in the style of OpenAI is spoken, with the extra openai: HOST:PORT (port 0: any free one) or off",
        check_optional_address,
    )
    tls_cert: Path | None = option(
        read_optional_file,
        "",
        "FILE",
        "certificate chain of --address, --admin-address and --openai-address, PEM; reloaded when it changes",
    )
    tls_key: Path | None = option(read_optional_file, "", "FILE", "private key of --tls-cert, PEM")
    tls_client_ca: Path | None = option(
        read_optional_file, "", "FILE", "callers must show a certificate that one of these authorities has signed, PEM"
    )
    tls_client_names: tuple[str, ...] = option(
        read_names, "", "NAMES", "of those, only callers with one of these names in their certificate, such as a,b"
    )
    tokens_file: Path | None = option(
        read_optional_file, "", "FILE", "hashed bearer tokens with their scopes and limits; reloaded when it changes"
    )
    reflection: bool = option(read_switch, "on", "on|off", "describe the services to tools such as grpcurl")
    max_connection_age: float | None = option(
        read_optional_seconds,
        "30m",
        "DURATION",
        "after which a connection takes no new calls, so that clients find new servers; open calls go on; or off",
        at_least(0.1),
    )
    max_connection_idle: float | None = option(
        read_optional_seconds,
        "15m",
        "DURATION",
        "after which a connection without calls is closed; or off",
        at_least(0.1),
    )
    max_streams_per_connection: int = option(
        read_integer, "1024", "N", "calls open at the same time on one connection; further ones wait", at_least(1)
    )
    vllm_metric_names: bool = option(
        read_switch, "off", "on|off", "export the metrics under the names of vLLM too, for boards and autoscalers"
    )
    otlp_endpoint: str = option(
        str, "", "URL", "send traces there by OTLP, such as http://127.0.0.1:4317; needs the extra otel", check_endpoint
    )
    log_format: str = option(str, "text", "FORMAT", "format of the log on stderr: text or json", one_of("text", "json"))
    log_prompts: bool = option(
        read_switch,
        "off",
        "on|off",
        "log what callers send and get, 2,000 characters of each; else nothing of it is ever in the log",
    )
    termination_log: Path | None = option(
        read_optional_file,
        "/dev/termination-log",
        "FILE",
        "where the reason of a fatal end is written, if that file exists",
    )

    def check_exposure(self) -> None:
        """Raises ValueError for settings that do not go together."""
        if self.openai_address is not None and self.openai_address.startswith("unix:"):
            raise ValueError("--openai-address: takes HOST:PORT or off, no Unix socket")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("--tls-cert: comes with --tls-key; give both or neither")
        if self.tls_client_ca and not self.tls_cert:
            raise ValueError("--tls-client-ca: needs --tls-cert and --tls-key")
        if self.tls_client_names and not self.tls_client_ca:
            raise ValueError("--tls-client-names: needs --tls-client-ca, which proves the names")
