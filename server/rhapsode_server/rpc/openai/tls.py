"""TLS over HTTP, from the files that gRPC uses, and as they are at each handshake."""

import ssl
from pathlib import Path
from typing import Any

from rhapsode_server.config import ServerConfig
from rhapsode_server.rpc.credentials import read_certificates
from rhapsode_server.rpc.reloading import Reloading


def tls_context(config: ServerConfig) -> ssl.SSLContext | None:
    """None without TLS. Raises ValueError for files that cannot be used."""
    cert, key, client_ca = config.tls_cert, config.tls_key, config.tls_client_ca
    if cert is None or key is None:
        return None
    paths = [cert, key, *([client_ca] if client_ca else [])]
    latest = Reloading("--tls-cert", paths, lambda: _context(cert, key, client_ca))

    def take_latest(connection: ssl.SSLObject, *_: Any) -> None:
        """What OpenSSL asks at the beginning of each handshake, also of a caller that names no server."""
        connection.context = latest.value

    context = _context(cert, key, client_ca)
    context.sni_callback = take_latest
    return context


def _context(cert: Path, key: Path, client_ca: Path | None) -> ssl.SSLContext:
    """TLS 1.3 without tickets: nobody goes on with what an earlier certificate has opened."""
    read_certificates(cert, key, client_ca)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0
    context.load_cert_chain(cert, key)
    if client_ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(client_ca)
    return context
