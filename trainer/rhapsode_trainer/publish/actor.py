"""Who publishes."""

import getpass
import socket


def actor() -> str:
    """For the lease and the history. A container's user may have no name."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):
        user = "unknown"
    return f"rhapsode-train {user}@{socket.gethostname()}"
