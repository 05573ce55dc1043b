"""Who sends a request over HTTP, in the words of gRPC's context."""

from collections.abc import Iterator, Mapping
from typing import Any

from aiohttp import web

from rhapsode_server.rpc.access import Metadata

_ALTERNATIVE, _COMMON = "x509_subject_alternative_name", "x509_common_name"


class HttpCaller:
    """By the headers of a request and its connection. It outlives the connection."""

    def __init__(self, request: web.BaseRequest) -> None:
        self._headers = tuple((key.lower(), _printable(value)) for key, value in request.headers.items())
        transport = request.transport
        self._certificate: Mapping[str, Any] = (transport and transport.get_extra_info("peercert")) or {}
        self._peer = transport and transport.get_extra_info("peername")

    def invocation_metadata(self) -> Metadata:
        return self._headers

    def auth_context(self) -> Mapping[str, list[bytes]]:
        names = [value.encode() for _, value in self._certificate.get("subjectAltName", ())]
        return {_ALTERNATIVE: names} if names else {_COMMON: list(self._common_names())}

    def peer(self) -> str:
        """As gRPC spells it."""
        if not isinstance(self._peer, tuple):
            return "unix:"
        host, port, *more = self._peer
        return f"ipv6:[{host}]:{port}" if more else f"ipv4:{host}:{port}"

    def _common_names(self) -> Iterator[bytes]:
        for attributes in self._certificate.get("subject", ()):
            for name, value in attributes:
                if name == "commonName":
                    yield value.encode()


def _printable(value: str) -> str:
    """Bytes of a header that are not UTF-8 come as halves of surrogate pairs, which nothing takes."""
    return value.encode("utf-8", "replace").decode()
