"""What docs/security.md tells operators to do works, and what it shows is what they see."""

import re
import subprocess
from dataclasses import fields, replace
from pathlib import Path

import pytest
from rhapsode_client import AsyncClient
from rhapsode_client.credentials import CredentialOptions
from rhapsode_server.config import ServerConfig
from rhapsode_server.metrics import Metrics
from rhapsode_server.rpc.exposed import exposure_warnings
from rhapsode_server.rpc.health import HealthService
from rhapsode_server.rpc.server import Server
from rhapsode_server.tokens import Scope, digest_of, parse_line
from support.certificates import HAS_OPENSSL, WITHOUT_OPENSSL
from support.fake_models import FakeModels

PAGE = (Path(__file__).parents[3] / "docs" / "security.md").read_text("utf-8")
TOKEN_FLAGS = {"scopes", "rate", "concurrency"}


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """The folder with what the page's commands make."""
    if not HAS_OPENSSL:
        pytest.skip(WITHOUT_OPENSSL)
    [commands] = re.findall(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    subprocess.run(["sh", "-eu", "-c", commands], cwd=tmp_path, check=True, capture_output=True)
    return tmp_path


async def test_certificates_made_by_the_page_let_the_caller_in(
    config: ServerConfig, models: FakeModels, made: Path
) -> None:
    name = "search.example.org"
    assert f"--tls-client-names {name}" in PAGE
    pair = {"tls_cert": made / "tls.crt", "tls_key": made / "tls.key"}
    config = replace(config, **pair, tls_client_ca=made / "ca.crt", tls_client_names=(name,))
    server = Server(config, models, Metrics(), HealthService(()))
    await server.start()
    ca, cert, key = (str(made / file) for file in ("ca.crt", "search.crt", "search.key"))
    for server_name in (None, "rhapsode.example.org", "localhost"):
        async with AsyncClient(
            server.address, tls_ca=ca, tls_cert=cert, tls_key=key, tls_server_name=server_name, timeout=10
        ) as client:
            assert await client.models()
    await server.stop()


def test_the_line_is_that_of_the_token() -> None:
    [token] = re.findall(r"shown this once: (\S+)$", PAGE, re.MULTILINE)
    [line] = re.findall(r"^search sha256:.*$", PAGE, re.MULTILINE)
    assert parse_line(line).digest == digest_of(token)
    assert all(f"| `{scope}` |" in PAGE for scope in Scope)


def test_the_warnings_are_those_of_the_log() -> None:
    config = ServerConfig(models=Path("models"), address="0.0.0.0:50051")
    assert re.findall(r"^WARNING (.*)$", PAGE, re.MULTILINE) == list(exposure_warnings(config))


def test_every_flag_and_variable_is_there() -> None:
    of_the_server = {field.name for field in fields(ServerConfig)}
    of_the_client = set(CredentialOptions.__annotations__)
    named = {flag.replace("-", "_") for flag in re.findall(r"(?<![\w-])--([a-z][a-z-]+)", PAGE)}
    assert named - {"from_literal"} <= of_the_server | of_the_client | TOKEN_FLAGS
    assert {"tls_cert", "tls_key", "tls_client_ca", "tls_client_names", "tokens_file", "reflection"} <= named
    variables = {name.lower() for name in re.findall(r"RHAPSODE_([A-Z_]+)", PAGE)}
    assert variables == of_the_client | {"address"}
