"""The web service: its own tests, the real server behind it, and callers who leave."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import httpx2
from rhapsode_client import Client
from rhapsode_client.testing import FakeServer

from .conftest import EXAMPLES

FOLDER = EXAMPLES / "streaming_service"


@contextmanager
def running_service(address: str) -> Iterator[str]:
    """The URL of the service, started as its README says but on a free port."""
    command = [sys.executable, "-m", "uvicorn", "service:app", "--port", "0"]
    environment = os.environ | {"RHAPSODE_ADDRESS": address}
    with subprocess.Popen(
        command, cwd=FOLDER, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr
        try:
            yield next(match[0] for line in process.stderr if (match := re.search(r"http://127\.0\.0\.1:\d+", line)))
        finally:
            process.terminate()
            process.communicate(timeout=20)


def test_its_own_tests_pass() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", ".", "."]
    done = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout


def test_what_the_model_writes_arrives(address: str, client: Client) -> None:
    with running_service(address) as url:
        response = httpx2.post(f"{url}/poems", json={"theme": "the sea", "seed": 7}, timeout=30)
        data = [json.loads(line) for line in re.findall(r"^data: (.*)$", response.text, re.M)]
        expected = client.generate("the sea", seed=7, stop="\n\n")
        assert "".join(each.get("text", "") for each in data) == expected.text
        assert data[-1] == {"finish_reason": expected.finish_reason, "tokens": expected.usage.completion_tokens}
        assert response.headers["x-version"] == "poems@2"
        assert httpx2.get(f"{url}/health").status_code == 200


def test_a_caller_who_leaves_ends_the_work() -> None:
    with FakeServer() as server, running_service(server.address) as url:
        server.reply([" word"] * 100_000, token_delay=0.01)
        with httpx2.stream("POST", f"{url}/poems", json={"theme": "the sea"}, timeout=30) as response:
            next(response.iter_text())
        assert server.calls[0].cancelled.wait(10)
