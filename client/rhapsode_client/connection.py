"""Where the server is and how long a call may take."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass

DEFAULT_ADDRESS = "127.0.0.1:50051"
DEFAULT_ADMIN_ADDRESS = "127.0.0.1:50052"

# The server bounds what it sends; gRPC's own 4 MB would refuse the tokens of a long text.
CHANNEL_OPTIONS: Sequence[tuple[str, int]] = (("grpc.max_receive_message_length", -1),)


@dataclass(frozen=True, slots=True)
class Connection:
    """`address`: a gRPC target such as `host:port`. `timeout`: seconds of each call that names none; None: no limit."""

    address: str
    timeout: float | None

    def __post_init__(self) -> None:
        check_timeout(self.timeout)

    @classmethod
    def resolve(
        cls,
        address: str | None,
        timeout: float | None,
        variable: str = "RHAPSODE_ADDRESS",
        default: str = DEFAULT_ADDRESS,
    ) -> "Connection":
        """`address`, else that of the environment's variable, else the default address."""
        return cls(address or os.environ.get(variable) or default, timeout)

    def timeout_of(self, call_timeout: float | None) -> float | None:
        """Seconds that a call may take: its own timeout, else the connection's."""
        check_timeout(call_timeout)
        return self.timeout if call_timeout is None else call_timeout


def check_timeout(timeout: float | None) -> None:
    """Raises ValueError unless `timeout` is None or a positive number of seconds."""
    if timeout is not None and not 0 < timeout < math.inf:
        raise ValueError(f"timeout must be a positive number of seconds, not {timeout}")
