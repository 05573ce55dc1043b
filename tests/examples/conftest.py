"""One server with two versions of a tiny model, for the examples that call one."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rhapsode_client import Client
from support.publishing import publish_tiny
from support.servers import running_server

EXAMPLES = Path(__file__).parents[2] / "examples"
BIN = Path(sys.executable).parent
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where `poems` is served: requests go to version 2, version 1 answers those that name it."""
    root = tmp_path_factory.mktemp("served")
    for seed in (0, 1):
        publish_tiny(root, "poems", seed=seed)
    (root / "poems" / "traffic.json").write_text(json.dumps({"schema_version": 1, "weights": {"1": 0, "2": 100}}))
    with running_server(root, "--threads", "1", "--standby", "off") as server:
        server.wait_serving("model/poems")
        server.wait_log("poems version 1: ready")
        yield server.address


@pytest.fixture
def client(address: str) -> Iterator[Client]:
    with Client(address, timeout=60) as client:
        yield client


@pytest.fixture
def run(address: str) -> Run:
    """Runs a command in the folder of an example, connected to the server, and sees to it that it succeeds."""

    def run(*command: str, example: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"RHAPSODE_ADDRESS": address, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
        done = subprocess.run(
            command, cwd=EXAMPLES / example, env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done

    return run
