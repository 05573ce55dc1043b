"""How a server signs."""

import os
import re
import socket
from pathlib import Path

import pytest
from rhapsode_server.config import ServerConfig
from rhapsode_server.identity import server_name


@pytest.mark.parametrize(
    ("host", "address", "name"),
    [
        ("node-7", "0.0.0.0:50051", "node-7-50051"),
        ("node-7.example.org", "[::1]:1", "node-7-example-org-1"),
        ("../node 7", "127.0.0.1:50051", "node-7-50051"),
        ("node", "unix:/run/rhapsode/a.sock", "node-run-rhapsode-a-sock"),
        ("node", "127.0.0.1:0", "node-pid77"),
    ],
)
def test_it_is_one_word(monkeypatch: pytest.MonkeyPatch, host: str, address: str, name: str) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: host)
    monkeypatch.setattr(os, "getpid", lambda: 77)
    found = server_name(ServerConfig(models=Path("models"), address=address))
    assert found == name
    assert re.fullmatch(r"[\w-]+", found)
