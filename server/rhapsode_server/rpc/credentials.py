"""TLS: the server's certificate and key, and the authorities that sign those of callers."""

import re
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import grpc

from rhapsode_server.config import ServerConfig
from rhapsode_server.rpc.reloading import Reloading

# The object identifiers of RSA keys and of the curves P-256 and P-384, as certificates spell them.
_KEY_TYPES = tuple(map(bytes.fromhex, ("06092a864886f70d010101", "06082a8648ce3d030107", "06052b81040022")))

Certificates = Reloading[grpc.ServerCertificateConfiguration]


def watched_certificates(config: ServerConfig) -> Certificates | None:
    """None without TLS. Raises ValueError for files that cannot be used."""
    cert, key, client_ca = config.tls_cert, config.tls_key, config.tls_client_ca
    if cert is None or key is None:
        return None
    paths = [cert, key, *([client_ca] if client_ca else [])]
    return Reloading("--tls-cert", paths, lambda: read_certificates(cert, key, client_ca))


def server_credentials(certificates: Certificates, *, asks_clients: bool) -> grpc.ServerCredentials:
    """For one port; keep them for as long as it is open, gRPC does not. Every handshake sees the files as they are."""
    latest = cast(Any, _latest_of(certificates))  # its stubs do not know of the None that its documentation allows
    return grpc.dynamic_ssl_server_credentials(certificates.value, latest, asks_clients)


def read_certificates(cert: Path, key: Path, client_ca: Path | None) -> grpc.ServerCertificateConfiguration:
    """Checks what gRPC takes unseen: a pair that does not match would fail every handshake."""
    chain, secret = _read("--tls-cert", cert), _read("--tls-key", key)
    _check_pair(cert, key)
    _check_key_type(cert, chain)
    if (_read("--tls-cert", cert), _read("--tls-key", key)) != (chain, secret):
        raise ValueError(f"--tls-cert: {cert} changes while it is read")
    authorities = None
    if client_ca:
        authorities = _read("--tls-client-ca", client_ca)
        _check_authorities(client_ca, authorities)
    return grpc.ssl_server_certificate_configuration([(secret, chain)], authorities)


def _latest_of(certificates: Certificates) -> Callable[[], grpc.ServerCertificateConfiguration | None]:
    last = certificates.value

    def latest() -> grpc.ServerCertificateConfiguration | None:
        """What gRPC asks before each handshake; None: as before."""
        nonlocal last
        before, last = last, certificates.value
        return None if last is before else last

    return latest


def _read(flag: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"{flag}: cannot read {path}: {error.strerror}") from None


def _check_pair(cert: Path, key: Path) -> None:
    def refuse() -> str:
        raise ValueError(f"--tls-key: {key} needs a passphrase; give a key without one")

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, password=refuse)
    except ssl.SSLError as error:
        raise ValueError(f"--tls-cert: {cert} and --tls-key: {key} are no pair of PEM files: {error.reason}") from None


def _check_key_type(path: Path, chain: bytes) -> None:
    """OpenSSL takes more kinds of keys than BoringSSL, by which gRPC would then fail every handshake."""
    first = re.search("-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", chain.decode("latin-1"), re.DOTALL)
    if not first or not any(kind in ssl.PEM_cert_to_DER_cert(first[0]) for kind in _KEY_TYPES):
        raise ValueError(f"--tls-cert: {path} is for a kind of key that gRPC does not take; take RSA, P-256 or P-384")


def _check_authorities(path: Path, authorities: bytes) -> None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=authorities.decode("ascii"))
    except (ssl.SSLError, UnicodeDecodeError):
        raise ValueError(f"--tls-client-ca: {path} holds no certificates in PEM form") from None
