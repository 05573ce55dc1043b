"""What keeps the endpoint from listening ends the server at its start, with the reason."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from rhapsode_server.config import ServerConfig
from rhapsode_server.errors import CannotStart
from rhapsode_server.metrics import Metrics
from rhapsode_server.rpc.health import HealthService
from rhapsode_server.rpc.server import Server
from support.fake_models import FakeModels


def made(config: ServerConfig) -> Server:
    return Server(config, FakeModels(), Metrics(), HealthService(()))


async def test_an_address_in_use_is_named(config: ServerConfig, server: Server) -> None:
    second = made(replace(config, openai_address=server.openai_address))
    with pytest.raises(CannotStart, match=r"--openai-address: cannot listen on .*: Address already in use"):
        await second.start()
    await second.stop()


async def test_a_host_that_is_none_is_named(config: ServerConfig) -> None:
    server = made(replace(config, openai_address="nowhere.invalid:0"))
    with pytest.raises(CannotStart, match=r"--openai-address: cannot listen on nowhere\.invalid:0"):
        await server.start()
    await server.stop()


async def test_without_the_extra_it_says_what_to_install(config: ServerConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith(("aiohttp", "rhapsode_server.rpc.openai."))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    with pytest.raises(CannotStart, match=r"--openai-address: needs aiohttp .*'rhapsode-server\[openai\]'"):
        made(config)


def test_a_unix_socket_is_refused() -> None:
    with pytest.raises(ValueError, match="--openai-address: takes HOST:PORT or off"):
        ServerConfig(models=Path("models"), openai_address="unix:/run/rhapsode.sock")


def test_a_server_without_it_imports_nothing_of_it() -> None:
    code = "import sys, rhapsode_server.__main__; print('aiohttp' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


async def test_it_is_off_by_default(config: ServerConfig) -> None:
    assert ServerConfig(models=Path("models")).openai_address is None
    server = made(replace(config, openai_address=None))
    await server.start()
    assert server.openai_address is None
    await server.stop()
