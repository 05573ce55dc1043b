"""How this server signs what it leaves for others to read."""

import os
import re
import socket

from rhapsode_server.config import ServerConfig

_UNSAFE = re.compile(r"[^A-Za-z0-9_]+")


def server_name(config: ServerConfig) -> str:
    """`<hostname>-<port>`, for example `node-7-50051`: one word, fit for a file name and the same after a restart.

    A server that listens on a Unix socket has its path instead of the port, one on any free port its process id.
    """
    place = config.address.removeprefix("unix:") if config.address.startswith("unix:") else _port(config)
    return _UNSAFE.sub("-", f"{socket.gethostname()}-{place}").strip("-")


def _port(config: ServerConfig) -> str:
    port = int(config.address.rpartition(":")[2])
    # Known only once it listens, and another one every time.
    return str(port or f"pid{os.getpid()}")
