"""An argument, else the environment, else the file, else the default; what cannot be used is named."""

from pathlib import Path
from typing import Any

import pytest
from rhapsode_client import AsyncClient, Client
from rhapsode_client.admin import AdminClient
from rhapsode_client.connection import Connection
from rhapsode_client.settings import settings

FILE = """
address = "file:1"
admin_address = "file:2"
timeout = 30
retries = 2
token = "of-the-file"
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "client.toml"
    path.write_text(FILE, "utf-8")
    return path


@pytest.fixture(autouse=True)
def _nothing_is_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("RHAPSODE_CONFIG", "RHAPSODE_RETRIES", "RHAPSODE_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def resolved(config: Any = None, *, address: str | None = None, retries: int | None = None) -> Connection:
    return Connection.resolve(address, None, retries, config, {})


def test_defaults() -> None:
    connection = resolved()
    assert (connection.address, connection.timeout, connection.retries) == ("127.0.0.1:50051", None, 4)
    assert connection.credentials.token == ""


def test_each_wins_over_the_next(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    of_file = resolved(config)
    assert (of_file.address, of_file.timeout, of_file.retries) == ("file:1", 30.0, 2)
    assert of_file.credentials.token == "of-the-file"
    monkeypatch.setenv("RHAPSODE_ADDRESS", "environment:1")
    monkeypatch.setenv("RHAPSODE_TIMEOUT", "2.5")
    monkeypatch.setenv("RHAPSODE_RETRIES", "1")
    monkeypatch.setenv("RHAPSODE_TOKEN", " of-the-environment\n")
    of_environment = resolved(config)
    assert (of_environment.address, of_environment.timeout, of_environment.retries) == ("environment:1", 2.5, 1)
    assert of_environment.credentials.token == "of-the-environment"
    given = resolved(config, address="argument:1", retries=0)
    assert (given.address, given.timeout, given.retries) == ("argument:1", 2.5, 0)


async def test_every_client_reads_the_file(config: Path) -> None:
    assert Client(config=config).address == AsyncClient(config=config).address == "file:1"
    assert AdminClient(config=config).address == "file:2"


def test_the_file_is_found(config: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    home = tmp_path / ".config/rhapsode/client.toml"
    home.parent.mkdir(parents=True)
    home.write_text('address = "home:1"', "utf-8")
    assert resolved().address == "home:1"
    monkeypatch.setenv("RHAPSODE_CONFIG", str(config))
    assert resolved().address == "file:1"
    assert resolved(home).address == "home:1"


def test_files_are_named_from_where_the_file_is(tmp_path: Path) -> None:
    path = tmp_path / "client.toml"
    path.write_text(
        'tls_ca = "ca.pem"\ntls_cert = "/etc/own.pem"\ntls_key = "~/own.key"\ntls_server_name = "a"', "utf-8"
    )
    assert settings(path, {}) == {
        "tls_ca": str(tmp_path / "ca.pem"),
        "tls_cert": "/etc/own.pem",
        "tls_key": str(tmp_path / "own.key"),
        "tls_server_name": "a",
    }
    path.write_text('tls_ca = "public"', "utf-8")
    assert settings(path, {}) == {"tls_ca": "public"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'adress = "a:1"', r"config: .*client\.toml: adress: no such setting; there are address, admin_address, "),
        (b"tls_ca = true", r"config: .*client\.toml: tls_ca: must be a text or a number"),
        (b"[address]", r"config: .*client\.toml: address: must be a text or a number"),
        (b"address", r"config: .*client\.toml is not TOML: "),
        (b"\xff", r"config: .*client\.toml is not TOML: "),
        (b'timeout = "soon"', "timeout: must be a number of seconds, not 'soon'"),
        (b"timeout = 0", r"timeout must be a positive number of seconds, not 0\.0"),
        (b"retries = 1.5", r"retries: must be a whole number, not '1\.5'"),
        (b"retries = 9", "retries must be 0 to 4, not 9"),
        (b'token = "two words"', "token: holds characters that no token has"),
    ],
)
def test_what_cannot_be_used_is_named(config: Path, content: bytes, message: str) -> None:
    config.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        Client(config=config)


def test_a_file_that_is_asked_for_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"config: cannot read .*missing\.toml: No such file or directory"):
        Client(config=tmp_path / "missing.toml")


def test_the_environment_is_named_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RHAPSODE_RETRIES", "often")
    with pytest.raises(ValueError, match="retries: must be a whole number, not 'often'"):
        Client()
