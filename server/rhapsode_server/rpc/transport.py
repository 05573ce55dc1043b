"""What connections may do: how many there are, and of each how much it sends, how many calls, how long, how many pings.

The keys are those of gRPC's channel_arg_names.h. One that is misspelled does nothing, and nobody says so: therefore
tests/security/test_transport.py sees each of them act.
"""

import resource

from rhapsode_server.config import ServerConfig
from rhapsode_server.models.limits import REQUEST_LIMITS

MAX_METADATA_BYTES = 16 * 1024
"""Of one call, names and values together; beyond it RESOURCE_EXHAUSTED."""

Options = tuple[tuple[str, int], ...]

_LARGEST = 2**31 - 1  # of an option's values; in milliseconds gRPC takes it for never

_BOUNDS: Options = (
    # A prompt that is far too long must reach the check that says so.
    ("grpc.max_receive_message_length", REQUEST_LIMITS.max_message_bytes),
    # That bounds what arrives, not what it inflates to, so nothing compressed is taken: 1 is identity alone.
    ("grpc.compression_enabled_algorithms_bitset", 1),
    # Between the two, gRPC refuses at random.
    ("grpc.max_metadata_size", MAX_METADATA_BYTES),
    ("grpc.absolute_max_metadata_size", MAX_METADATA_BYTES),
    # Whoever connects and then says nothing, or stops in the middle of the TLS handshake.
    ("grpc.server_handshake_timeout_ms", 10_000),
    # Without it a second server on the same port would silently take half of the calls.
    ("grpc.so_reuseport", 0),
)

_PINGS: Options = (
    # Clients may ping every 10 s (5 s leaves room for jitter), also between calls.
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    # A client whose machine is gone is noticed, and its streams end. The first time-out is the kernel's, for data that
    # is not acknowledged; for the answer to a ping gRPC has one of its own, a minute unless told otherwise.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 10_000),
)


def server_options(config: ServerConfig) -> Options:
    """For every port of a server.

    No grace for the age: with one, gRPC would cut the streams that are still open when it has passed.
    """
    configured = (
        ("grpc.max_allowed_incoming_connections", max_connections()),
        ("grpc.max_concurrent_streams", config.max_streams_per_connection),
        ("grpc.max_connection_age_ms", _milliseconds(config.max_connection_age)),
        ("grpc.max_connection_idle_ms", _milliseconds(config.max_connection_idle)),
    )
    return (*_BOUNDS, *_PINGS, *configured)


def allow_many_files() -> None:
    """As many open files, which connections are too, as the system lets this process and its workers have."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def max_connections() -> int:
    """Of each of three ports, so that files are left for workers, models and records whoever connects."""
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _LARGEST if allowed == resource.RLIM_INFINITY else min(allowed // 4, _LARGEST)


def _milliseconds(seconds: float | None) -> int:
    return _LARGEST if seconds is None else min(int(seconds * 1000), _LARGEST)
