"""docs/openai.md: what it shows runs, and what it lists is what there is."""

import asyncio
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from rhapsode_server.rpc.openai import errors, parameters
from rhapsode_server.rpc.openai.endpoint import METHODS
from rhapsode_server.rpc.openai.exchange import BODY_SECONDS
from rhapsode_server.rpc.openai.listener import IDLE_SECONDS
from rhapsode_server.rpc.server import Server
from support.fake_models import FakeEngine

PAGE = (Path(__file__).parents[4] / "docs" / "openai.md").read_text("utf-8")
ADDRESS = "127.0.0.1:8000"


def first_column(head: str) -> set[str]:
    table = PAGE.partition(f"| {head} | |\n")[2].partition("\n\n")[0]
    return {name for row in re.findall(r"^\|([^|]+)\|", table, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)}


def test_the_parameters_are_those_that_are_taken() -> None:
    shared = {*parameters._SHARED, *parameters._TAKEN_APART} - {"stream_options"}
    assert first_column("of both") == shared
    assert "`stream_options`" in PAGE
    assert first_column("of completions") == {*parameters._COMPLETION, "prompt"} - {*parameters._SHARED}
    assert first_column("of chats") == {*parameters._CHAT, "messages"} - {*parameters._SHARED}


def test_the_statuses_are_those_of_the_table() -> None:
    found = re.findall(r"^\| (\d{3}) \| ([A-Z_]+) \|", PAGE, re.MULTILINE)
    statuses = {code.name: str(status) for code, (status, _) in errors._STATUSES.items()}
    assert {code: status for status, code in found} == {
        code: status for code, status in statuses.items() if code != "FAILED_PRECONDITION"
    }


def test_the_numbers_and_words() -> None:
    assert f"more than {BODY_SECONDS:g} s" in PAGE
    assert f"after {IDLE_SECONDS:g} seconds" in PAGE
    assert all(f"`{method}`" in PAGE for method in METHODS)


async def test_the_example_runs(server: Server, engine: FakeEngine, capfd: pytest.CaptureFixture[str]) -> None:
    engine.will_say("and the stars")
    [code] = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert ADDRESS in code
    await asyncio.to_thread(exec, code.replace(ADDRESS, str(server.openai_address)), {})
    assert capfd.readouterr().out == "and the stars\nand the stars"


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl: apt-get install curl")
async def test_the_command_runs(server: Server, engine: FakeEngine) -> None:
    engine.will_say("and the stars")
    [command] = re.findall(r"^curl .*$", PAGE, re.MULTILINE)
    done = await asyncio.to_thread(
        subprocess.run,
        command.replace(ADDRESS, str(server.openai_address)),
        shell=True,
        capture_output=True,
        check=True,
    )
    assert b'"text": "and the stars"' in done.stdout


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(([\w.]+)(?:#[\w-]+)?\)", PAGE))))
def test_links_lead_somewhere(link: str) -> None:
    assert (Path(__file__).parents[4] / "docs" / link).is_file()
