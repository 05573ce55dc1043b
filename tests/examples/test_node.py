"""The client in JavaScript, its stubs generated from the contract of this tree."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from rhapsode_client import Client, Overloaded, Unavailable
from rhapsode_client.testing import FakeServer

from .conftest import BIN, EXAMPLES

NO_NETWORK = ("ENOTFOUND", "EAI_AGAIN", "ECONNREFUSED", "ECONNRESET", "ETIMEDOUT", "ENOTCACHED")

pytestmark = pytest.mark.skipif(not shutil.which("npm"), reason="needs Node 20 or newer with npm on the PATH")


def npm(folder: Path, *command: str) -> None:
    environment = os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}  # buf is there
    done = subprocess.run(
        ["npm", *command], cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    if any(sign in done.stderr for sign in NO_NETWORK):
        pytest.skip("needs a package registry that npm reaches, or packages in its cache")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the example beside the contract, made ready as its README says."""
    root = tmp_path_factory.mktemp("tree")
    (root / "proto").symlink_to(EXAMPLES.parent / "proto")
    folder = root / "examples" / "node"
    shutil.copytree(EXAMPLES / "node", folder, ignore=shutil.ignore_patterns("node_modules", "gen"))
    npm(folder, "ci", "--prefer-offline", "--no-audit", "--no-fund")
    npm(folder, "run", "generate")
    return folder


def write(folder: Path, address: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {"RHAPSODE_ADDRESS": address}
    node = shutil.which("node") or ""
    return subprocess.run(
        [node, "client.js", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_it_streams_what_the_model_writes(installed: Path, address: str, client: Client) -> None:
    expected = client.generate("The sea", seed=7, temperature=0.8, max_new_tokens=40)
    done = write(installed, address, "The sea", "7")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "\n".join(expected.text.splitlines())
    assert done.stderr == f"\n[{expected.finish_reason.upper()}, {expected.usage.completion_tokens} tokens]\n"


def test_it_tries_again_when_the_server_says_so(installed: Path) -> None:
    with FakeServer() as server:
        server.fail(Overloaded("busy"), retry_after=0.05)
        server.reply(" is wide")
        done = write(installed, server.address, "The sea")
        assert (done.returncode, done.stdout) == (0, " is wide")
        assert len(server.requests) == 2


def test_it_tries_no_more_once_there_was_text(installed: Path) -> None:
    with FakeServer() as server:
        server.fail(Unavailable("the worker was lost"), after=" is", retry_after=0.05)
        done = write(installed, server.address, "The sea")
        assert (done.returncode, done.stdout, done.stderr) == (1, " is", "Unavailable: the worker was lost\n")
        assert len(server.requests) == 1
