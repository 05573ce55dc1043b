"""Who the caller is and whom it trusts: options, environment, files that cannot be used."""

import os
from pathlib import Path
from typing import Any

import grpc
import pytest
from rhapsode_client import AsyncClient, Client
from rhapsode_client.admin import AdminClient
from rhapsode_client.credentials import CredentialOptions, Credentials
from support.certificates import HAS_OPENSSL, WITHOUT_OPENSSL, Authority, Pair

needs_openssl = pytest.mark.skipif(not HAS_OPENSSL, reason=WITHOUT_OPENSSL)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def pair(authority: Authority) -> Pair:
    return authority.issue("search")


def test_without_any_nothing_is_sent_and_nothing_encrypted() -> None:
    credentials = Credentials.resolve({}, {})
    assert (credentials.metadata, credentials.channel_options) == ((), ())
    assert credentials.channel_credentials() is None


def test_a_token_is_sent_and_not_shown() -> None:
    credentials = Credentials.resolve({"token": "rhp_secret\n"}, {"token": "rhp_other"})
    assert credentials.metadata == (("authorization", "Bearer rhp_secret"),)
    assert "rhp_secret" not in repr(credentials)


def test_the_settings_say_what_options_do_not() -> None:
    settings = {name: name for name in CredentialOptions.__annotations__}
    assert Credentials.resolve({}, settings) == Credentials(**settings)
    assert Credentials.resolve({"tls_server_name": "poems"}, settings).channel_options == (
        ("grpc.ssl_target_name_override", "poems"),
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"token": "two words"}, "token: holds characters that no token has"),
        ({"token": "t\u00f6ken"}, "token: holds characters"),
        ({"token": "a\nb"}, "token: holds characters"),
        ({"tls_ca": "public", "tls_cert": "a.pem"}, "tls_cert: comes with tls_key; give both or neither"),
        ({"tls_ca": "public", "tls_key": "a.key"}, "tls_cert: comes with tls_key; give both or neither"),
        ({"tls_cert": "a.pem", "tls_key": "a.key"}, "tls_cert: needs tls_ca, a file or public"),
        ({"tls_server_name": "poems"}, "tls_server_name: needs tls_ca, a file or public"),
        ({"tls_ca": "missing.pem"}, "tls_ca: cannot read missing.pem: No such file or directory"),
        ({"tls_ca": __file__}, "tls_ca: .* holds no certificates in PEM form"),
        ({"tls_ca": "public", "tls_cert": __file__, "tls_key": __file__}, "are no pair of PEM files: "),
        ({"tls_ca": "public", "tls_cert": __file__, "tls_key": "missing.key"}, "tls_key: cannot read missing.key"),
    ],
)
@pytest.mark.parametrize("kind", [Client, AsyncClient, AdminClient])
async def test_what_cannot_be_used_is_named(kind: Any, options: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        kind("127.0.0.1:1", **options)
    assert options.get("token", "x" * 99) not in str(caught.value)


@needs_openssl
def test_certificates_that_can_be_used(authority: Authority, pair: Pair) -> None:
    own: CredentialOptions = {"tls_cert": pair.cert, "tls_key": pair.key}
    for options in ({"tls_ca": authority.cert}, {"tls_ca": "public"}, {"tls_ca": authority.cert, **own}):
        credentials = Credentials.resolve(options, {})  # type: ignore[arg-type]
        assert isinstance(credentials.channel_credentials(), grpc.ChannelCredentials)


@needs_openssl
def test_a_key_with_a_passphrase_is_refused_without_asking(authority: Authority, tmp_path: Path) -> None:
    locked = authority.issue("locked", passphrase="secret")
    with pytest.raises(ValueError, match=r"tls_key: .* needs a passphrase; give a key without one"):
        Client("127.0.0.1:1", tls_ca="public", tls_cert=locked.cert, tls_key=locked.key)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tls-ca", "missing.pem"], "rhapsode: --tls-ca: cannot read missing.pem: No such file or directory\n"),
        (["--tls-server-name", "a"], "rhapsode: --tls-server-name: needs tls_ca, a file or public; "),
        (["--token", "two words"], "rhapsode: --token: holds characters that no token has\n"),
    ],
)
@pytest.mark.parametrize("command", [["models"], ["generate", "Sing"], ["admin", "status"]])
def test_the_command_line_says_so(command: list[str], arguments: list[str], message: str) -> None:
    from rhapsode_client.cli.app import app
    from typer.testing import CliRunner

    result = CliRunner().invoke(app, [*command, *arguments], env=dict.fromkeys(os.environ.keys() & {"RHAPSODE_TOKEN"}))
    assert result.exit_code == 2
    assert result.stderr.startswith(message)
