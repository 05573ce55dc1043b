"""Where Prometheus reads."""

import socket
import threading
from dataclasses import dataclass, field
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import make_wsgi_app

from rhapsode_server.metrics.registry import Metrics

MAX_CONNECTIONS = 16
SILENCE = 10.0
"""Seconds after which a client that says nothing is not waited for."""


class _Handler(WSGIRequestHandler):
    timeout = SILENCE

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: it would be a line for every scrape."""


class _Server(ThreadingMixIn, WSGIServer):
    """A thread for each connection; those beyond a few are closed, because anybody may open them."""

    daemon_threads = True

    def server_activate(self) -> None:
        super().server_activate()
        self._places = threading.BoundedSemaphore(MAX_CONNECTIONS)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._places.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing: the client has gone, or is none of Prometheus."""


class _Server6(_Server):
    address_family = socket.AF_INET6


@dataclass(slots=True)
class MetricsServer:
    """Serves the registry over HTTP at `/metrics` until it is closed. Raises OSError when the port is taken."""

    metrics: Metrics
    host: str
    port: int
    _server: Any = field(init=False)
    _thread: Any = field(init=False)

    def __post_init__(self) -> None:
        app, kind = make_wsgi_app(self.metrics.registry), _Server6 if ":" in self.host else _Server
        self._server = make_server(self.host, self.port, app, kind, handler_class=_Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True)
        self._thread.start()
        self.port = self._server.server_port

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}/metrics"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
