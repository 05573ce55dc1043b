"""What Kubernetes is told of a server that cannot start, or fails."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rhapsode_server import __main__ as entry
from rhapsode_server.termination import note_termination
from support.logs import ServerLog


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """As Kubernetes makes it."""
    path = tmp_path / "termination-log"
    path.touch()
    return path


@pytest.fixture
def flags(tmp_path: Path, file: Path) -> list[str]:
    off = ["--metrics-port", "off", "--admin-address", "off", "--standby", "off"]
    return ["--models", str(tmp_path), "--address", "127.0.0.1:0", *off, "--termination-log", str(file)]


@pytest.fixture(autouse=True)
def _own_logging(server_log: ServerLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entry, "configure_logging", lambda *_, **__: None)


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        yield taken.getsockname()[1]


@pytest.mark.parametrize("spelled", ["flag", "joined", "variable"])
def test_wrong_settings_are_noted(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, spelled: str
) -> None:
    where = {"flag": ["--termination-log", str(file)], "joined": [f"--termination-log={file}"], "variable": []}
    if spelled == "variable":
        monkeypatch.setenv("RHAPSODE_TERMINATION_LOG", str(file))
    with pytest.raises(SystemExit) as caught:
        entry.main(["--models", "models", "--replicas", "0", *where[spelled]])
    assert caught.value.code == 2
    complaint = "rhapsode-serve: --replicas: 0 is less than 1\nSee rhapsode-serve --help.\n"
    assert (file.read_text(), capsys.readouterr().err) == (complaint, complaint)


def test_help_is_no_failure(file: Path, flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        entry.main([*flags, "--help"])
    assert not caught.value.code
    assert file.read_text() == ""
    assert "--termination-log" in capsys.readouterr().out


def test_an_address_in_use_is_noted(
    file: Path, flags: list[str], taken_port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert entry.main([*flags, "--address", f"127.0.0.1:{taken_port}"]) == 2
    assert file.read_text() == capsys.readouterr().err.strip()
    assert f"cannot listen on 127.0.0.1:{taken_port}" in file.read_text()


def test_a_failure_is_noted_and_logged(
    file: Path, flags: list[str], monkeypatch: pytest.MonkeyPatch, server_log: ServerLog
) -> None:
    async def fails(*_: Any) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(entry, "serve", fails)
    assert entry.main(flags) == 1
    assert file.read_text() == "rhapsode-serve failed: ZeroDivisionError: division by zero"
    [line] = server_log.lines
    assert (line["level"], line["message"]) == ("CRITICAL", "the server failed")
    assert "in fails" in line["traceback"]


def test_an_orderly_end_is_not_noted(file: Path, flags: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    async def stops(*_: Any) -> None: ...

    monkeypatch.setattr(entry, "serve", stops)
    assert entry.main(flags) == 0
    assert file.read_text() == ""


def test_it_is_short_and_can_be_printed(file: Path) -> None:
    note_termination(file, "\x1b[2Ja\udcff\n" + "\u8a69" * 5000)
    lines = file.read_text().split("\n")
    assert lines[0] == r"\x1b[2Ja\udcff"
    assert set(lines[1]) == {"\u8a69"}
    assert file.stat().st_size <= 4096


def test_it_is_written_only_where_it_is(tmp_path: Path) -> None:
    pipe, missing = tmp_path / "pipe", tmp_path / "missing"
    os.mkfifo(pipe)
    for path in (None, pipe, missing, tmp_path):
        note_termination(path, "why")
    assert not missing.exists()
