"""A fake server, and clients of both kinds that give up at once."""

from collections.abc import Iterator

import pytest
from rhapsode_client import Client
from rhapsode_client.testing import FakeServer


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer({"poems": 3, "stories": 1}) as server:
        yield server


@pytest.fixture
def client(server: FakeServer) -> Iterator[Client]:
    with Client(server.address, retries=0, timeout=30) as client:
        yield client
