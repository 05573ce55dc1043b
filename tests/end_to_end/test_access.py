"""A server that asks who calls, and the command line that answers, as operators and callers start them."""

import subprocess
import sys
from pathlib import Path

import pytest
from rhapsode_client.cli.app import app
from support.certificates import HAS_OPENSSL, WITHOUT_OPENSSL, Authority
from support.servers import ServerProcess, running_server
from typer.testing import CliRunner, Result


def make_token(file: Path, name: str, *flags: str) -> str:
    """As an operator does; the line is appended to `file`."""
    with file.open("a") as lines:
        command = [sys.executable, "-m", "rhapsode_server.tokens", name, *flags]
        done = subprocess.run(command, stdout=lines, stderr=subprocess.PIPE, text=True, check=True)
    return done.stderr.rpartition(" ")[2].strip()


def rhapsode(*arguments: str, **environment: str) -> Result:
    variables = {f"RHAPSODE_{name.upper()}": value for name, value in environment.items()}
    return CliRunner().invoke(app, [*arguments, "--timeout", "30"], env=variables)


@pytest.mark.skipif(not HAS_OPENSSL, reason=WITHOUT_OPENSSL)
def test_callers_and_operators_with_certificates_and_tokens(tmp_path: Path) -> None:
    models, tokens = tmp_path / "models", tmp_path / "tokens"
    models.mkdir()
    authority = Authority(tmp_path / "authority")
    server_pair, own = authority.issue("server", names="IP:127.0.0.1"), authority.issue("own", names="DNS:search")
    search, operator = make_token(tokens, "search"), make_token(tokens, "operator", "--scopes", "admin")
    tls = {"tls_ca": str(authority.cert), "tls_cert": str(own.cert), "tls_key": str(own.key)}
    flags = ("--tls-cert", server_pair.cert, "--tls-key", server_pair.key, "--tls-client-ca", authority.cert)
    with running_server(
        models, *map(str, flags), "--tls-client-names", "search", "--tokens-file", str(tokens), "--standby", "off"
    ) as server:
        address, admin = {"address": server.address}, {"admin_address": server.admin_address}
        assert rhapsode("models", **address, **tls, token=search).exit_code == 0
        assert "release" in rhapsode("admin", "status", **admin, **tls, token=operator).stdout
        refused = rhapsode("admin", "status", **admin, **tls, token=search)
        assert (refused.exit_code, "needs the scope admin, which the token of search" in refused.stderr) == (1, True)
        nobody = rhapsode("models", **address, **tls)
        assert (nobody.exit_code, "give --token, or better RHAPSODE_TOKEN" in nobody.stderr) == (1, True)
        assert rhapsode("models", **address, token=search).exit_code == 4
        server.wait_log("caller=search method=ListModels outcome=ok")
        assert not any(search in line or operator in line for line in server.log)


def test_a_file_of_tokens_that_cannot_be_used_is_exit_code_2(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("search sha256:0\n")
    server = ServerProcess(tmp_path, "--tokens-file", str(tokens))
    try:
        assert server.wait() == 2
        message = f"--tokens-file: {tokens}: line 1: after the name search belongs sha256: and 64 hexadecimal digits"
        assert f"rhapsode-serve: {message}" in server.output
        assert "Traceback" not in server.output
    finally:
        server.close()
