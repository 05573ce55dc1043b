"""Who the caller is, and whom it trusts to be the server."""

import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypedDict

import grpc

PUBLIC = "public"
FILES = ("tls_ca", "tls_cert", "tls_key")
"""The options that are paths of files."""


class CredentialOptions(TypedDict, total=False):
    """Keyword arguments of every client. None, or left out: the environment's variable, else the configuration file's
    setting, else none."""

    token: str | None
    """A bearer token that the server knows. Else RHAPSODE_TOKEN."""
    tls_ca: str | os.PathLike[str] | None
    """A PEM file with the authorities that may have signed the server's certificate, or `public` for those that
    browsers trust. Else RHAPSODE_TLS_CA. Without it the connection is not encrypted."""
    tls_cert: str | os.PathLike[str] | None
    """A PEM file with the caller's own certificate, for a server that asks for one. Else RHAPSODE_TLS_CERT."""
    tls_key: str | os.PathLike[str] | None
    """A PEM file with the key of `tls_cert`. Else RHAPSODE_TLS_KEY."""
    tls_server_name: str | None
    """The name in the server's certificate, where it is not that in the address. Else RHAPSODE_TLS_SERVER_NAME."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """What goes with every call, and with the connection. Files are read once, when the connection is made."""

    token: str = field(default="", repr=False)
    tls_ca: str = ""
    tls_cert: str = ""
    tls_key: str = ""
    tls_server_name: str = ""

    def __post_init__(self) -> None:
        if not (self.token.isascii() and self.token.isprintable()) or " " in self.token:
            raise ValueError("token: holds characters that no token has")
        if bool(self.tls_cert) != bool(self.tls_key):
            raise ValueError("tls_cert: comes with tls_key; give both or neither")
        for name in ("tls_cert", "tls_server_name"):
            if getattr(self, name) and not self.tls_ca:
                raise ValueError(f"{name}: needs tls_ca, a file or {PUBLIC}; without it there is no TLS")

    @classmethod
    def resolve(cls, options: CredentialOptions, settings: Mapping[str, str]) -> "Credentials":
        """The options, else the settings."""
        chosen = {name: options.get(name) or settings.get(name, "") for name in CredentialOptions.__annotations__}
        return cls(**{name: str(value).strip() for name, value in chosen.items()})

    @property
    def metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        """What goes with each call."""
        return (("authorization", f"Bearer {self.token}"),) if self.token else ()

    @property
    def channel_options(self) -> tuple[tuple[str, str], ...]:
        """What gRPC is told about the connection."""
        return (("grpc.ssl_target_name_override", self.tls_server_name),) if self.tls_server_name else ()

    def channel_credentials(self) -> grpc.ChannelCredentials | None:
        """None: no encryption. Raises ValueError that names the file that cannot be used."""
        if not self.tls_ca:
            return None
        authorities = None if self.tls_ca == PUBLIC else _authorities(self.tls_ca)
        chain, key = _pair(self.tls_cert, self.tls_key) if self.tls_cert else (None, None)
        return grpc.ssl_channel_credentials(authorities, key, chain)


def _authorities(path: str) -> bytes:
    content = _read("tls_ca", path)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=content.decode("ascii"))
    except (ssl.SSLError, UnicodeDecodeError):
        raise ValueError(f"tls_ca: {path} holds no certificates in PEM form") from None
    return content


def _pair(cert: str, key: str) -> tuple[bytes, bytes]:
    def refuse() -> str:
        raise ValueError(f"tls_key: {key} needs a passphrase; give a key without one")

    chain, secret = _read("tls_cert", cert), _read("tls_key", key)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(cert, key, password=refuse)
    except ssl.SSLError as error:
        raise ValueError(f"tls_cert: {cert} and tls_key: {key} are no pair of PEM files: {error.reason}") from None
    return chain, secret


def _read(name: str, path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise ValueError(f"{name}: cannot read {path}: {error.strerror}") from None
