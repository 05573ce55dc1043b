"""Where the server is, who calls it, how long a call may take and how often it is tried again."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import grpc

from rhapsode_client.credentials import CredentialOptions, Credentials
from rhapsode_client.retries import DEFAULT_RETRIES, check_retries, retry_options
from rhapsode_client.settings import ConfigPath, number_of_seconds, settings, whole_number
from rhapsode_client.tracing import trace_metadata

DEFAULT_ADDRESS = "127.0.0.1:50051"
DEFAULT_ADMIN_ADDRESS = "127.0.0.1:50052"
DEFAULT_ADDRESSES = {"address": DEFAULT_ADDRESS, "admin_address": DEFAULT_ADMIN_ADDRESS}

Metadata = tuple[tuple[str, str | bytes], ...]

_OPTIONS: Sequence[tuple[str, int | str]] = (
    # The server bounds what it sends; gRPC's own 4 MB would refuse the tokens of a long text.
    ("grpc.max_receive_message_length", -1),
    # A name with several addresses, such as a headless Service in Kubernetes: calls go to all of them in turn.
    ("grpc.lb_policy_name", "round_robin"),
    # A server whose machine is gone is noticed within half a minute. It allows a ping every 10 s, also between calls;
    # gRPC itself would stop after two without data.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """`address`: a gRPC target such as `host:port`. `timeout`: seconds of each call that names none; None: no limit."""

    address: str
    timeout: float | None
    retries: int
    credentials: Credentials

    def __post_init__(self) -> None:
        check_timeout(self.timeout)
        check_retries(self.retries)

    @classmethod
    def resolve(
        cls,
        address: str | None,
        timeout: float | None,
        retries: int | None,
        config: ConfigPath,
        credentials: CredentialOptions,
        setting: str = "address",
    ) -> "Connection":
        """What is None here is that of the environment, else of the file, else the default. Raises ValueError."""
        found = settings(config)
        chosen_retries = whole_number("retries", found) if retries is None else retries
        return cls(
            address=address or found.get(setting) or DEFAULT_ADDRESSES[setting],
            timeout=number_of_seconds("timeout", found) if timeout is None else timeout,
            retries=DEFAULT_RETRIES if chosen_retries is None else chosen_retries,
            credentials=Credentials.resolve(credentials, found),
        )

    @property
    def channel_options(self) -> Sequence[tuple[str, int | str]]:
        """What gRPC is told about the connection."""
        return (*_OPTIONS, *retry_options(self.retries), *self.credentials.channel_options)

    def metadata(self, trace: str = "") -> Metadata:
        """What goes with a call: who calls, and the trace that it is part of."""
        return (*self.credentials.metadata, *trace_metadata(trace))

    def channel_credentials(self) -> grpc.ChannelCredentials | None:
        """None: no encryption. Raises ValueError that names the file that cannot be used."""
        return self.credentials.channel_credentials()

    def timeout_of(self, call_timeout: float | None) -> float | None:
        """Seconds that a call may take: its own timeout, else the connection's."""
        check_timeout(call_timeout)
        return self.timeout if call_timeout is None else call_timeout


def check_timeout(timeout: float | None) -> None:
    """Raises ValueError unless `timeout` is None or a positive number of seconds."""
    if timeout is not None and not 0 < timeout < math.inf:
        raise ValueError(f"timeout must be a positive number of seconds, not {timeout}")
