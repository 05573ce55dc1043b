"""`rhapsode ui` as a command."""

import http.client
import socket
import subprocess
import sys
from importlib.util import find_spec as real_find_spec
from typing import Any
from urllib.parse import urlsplit

import pytest
from rhapsode_client.cli.app import app
from typer.testing import CliRunner


def test_it_listens_on_loopback_says_where_and_ends_with_ctrl_c(start_playground: Any, tmp_path: Any, monkeypatch: Any):
    monkeypatch.chdir(tmp_path)
    started = start_playground("--address", "127.0.0.1:1")
    assert started.url.startswith("http://127.0.0.1:")
    assert "playground for the server at 127.0.0.1:1" in started.announcement
    assert status(started.url) == 200
    code, said = started.interrupt()
    assert (code, said) == (130, "")
    assert list(tmp_path.iterdir()) == []


def test_a_web_site_cannot_pass_for_this_machine(start_playground: Any):
    started = start_playground()
    assert status(started.url, host="evil.example") == 400
    assert status(started.url, host="localhost:80") == 200


def test_loopback_has_other_names(start_playground: Any):
    started = start_playground("--host", "::1")
    assert started.url.startswith("http://[::1]:")
    assert status(started.url) == 200
    assert status(started.url, host="evil.example") == 400


def test_other_hosts_may_be_asked_for(start_playground: Any):
    started = start_playground("--host", "0.0.0.0")
    assert status(started.url.replace("0.0.0.0", "127.0.0.1"), host="my-machine:7860") == 200


def status(url: str, host: str | None = None) -> int:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=20)
    connection.request("GET", "/", headers={"Host": host} if host else {})
    found = connection.getresponse().status
    connection.close()
    return found


def test_a_port_that_is_taken():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = CliRunner().invoke(app, ["ui", "--port", str(port)])
    assert done.exit_code == 1
    assert done.stderr == f"rhapsode: --host, --port: cannot listen on 127.0.0.1:{port}: Address already in use\n"


def test_settings_that_no_client_can_use():
    done = CliRunner().invoke(app, ["ui", "--tls-key", "me.key"])
    assert done.exit_code == 2
    assert done.stderr == "rhapsode: --tls-cert: comes with tls_key; give both or neither\n"


def test_without_its_packages_it_says_how_to_have_them(monkeypatch: pytest.MonkeyPatch):
    absent = {"nicegui": None}
    monkeypatch.setattr(
        "rhapsode_client.cli.ui.find_spec", lambda name: absent.get(name) if name in absent else real_find_spec(name)
    )
    done = CliRunner().invoke(app, ["ui"])
    assert done.exit_code == 1
    assert done.stderr == 'rhapsode: the playground needs more packages: pip install "rhapsode-client[ui]"\n'


def test_help_needs_none_of_its_packages():
    script = (
        "import sys; from rhapsode_client.cli.app import app\n"
        "try: app(['ui', '--help'])\n"
        "except SystemExit: pass\n"
        "assert not {'nicegui', 'fastapi', 'uvicorn'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "--host" in done.stdout
