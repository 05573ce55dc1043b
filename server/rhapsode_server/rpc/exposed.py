"""What the log says at the start of a server that others can reach and that does not ask who they are."""

import ipaddress
from collections.abc import Iterator

from rhapsode_server.config import ServerConfig


def exposure_warnings(config: ServerConfig) -> Iterator[str]:
    """One for each thing that is open."""
    addresses = (
        ("--address", config.address),
        ("--admin-address", config.admin_address),
        ("--openai-address", config.openai_address),
    )
    for flag, address in addresses:
        if address is None or is_local(address):
            continue
        if config.tls_cert is None:
            yield f"{flag} {address}: whoever is on the way reads along; give --tls-cert and --tls-key"
        if config.tokens_file is None and config.tls_client_ca is None:
            yield f"{flag} {address}: whoever reaches it may call it; give --tokens-file or --tls-client-ca"


def is_local(address: str) -> bool:
    """Whether only this machine reaches `address`, HOST:PORT or unix:PATH."""
    if address.startswith("unix:"):
        return True
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
