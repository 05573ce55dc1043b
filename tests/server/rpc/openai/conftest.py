"""The server of the folder above with its HTTP endpoint, and OpenAI's own client."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from openai import AsyncOpenAI
from rhapsode_server.config import ServerConfig
from rhapsode_server.rpc.server import Server
from support.fake_models import PATIENCE


@pytest.fixture
def config() -> ServerConfig:
    return ServerConfig(
        models=Path("models"),
        address="127.0.0.1:0",
        admin_address=None,
        openai_address="127.0.0.1:0",
        default_max_new_tokens=20,
    )


@pytest.fixture
async def openai(server: Server) -> AsyncIterator[AsyncOpenAI]:
    url = f"http://{server.openai_address}/v1"
    async with AsyncOpenAI(base_url=url, api_key="none", max_retries=0, timeout=PATIENCE) as client:
        yield client
