"""docs/client.md: its examples run, and it leaves nothing out."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import rhapsode_client
from rhapsode_client import GenerateOptions, RhapsodeError, errors
from rhapsode_client.settings import NAMES
from rhapsode_client.testing import FakeServer

PAGE = (Path(__file__).parents[2] / "docs/client.md").read_text("utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with FakeServer({"poems": 3}) as server:
        server.reply(" is calm tonight")
        server.reply(json.dumps({"name": "Ann"}), prompt="Ann is 41.")
        yield server.address


@pytest.mark.parametrize("code", EXAMPLES, ids=range(len(EXAMPLES)))
def test_an_example_runs(
    code: str, address: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RHAPSODE_ADDRESS", address)
    exec(compile(code.replace('"127.0.0.1:50051"', ""), "docs/client.md", "exec"), {})
    assert capsys.readouterr().out


def test_no_option_is_left_out() -> None:
    assert [name for name in GenerateOptions.__annotations__ if f"`{name}`" not in PAGE] == []


def test_no_setting_is_left_out() -> None:
    assert [name for name in NAMES if f"`{name}`" not in PAGE and f"{name} = " not in PAGE] == []
    variables = {f"RHAPSODE_{name.upper()}" for name in (*NAMES, "config")} - {"RHAPSODE_ADMIN_ADDRESS"}
    assert set(re.findall(r"RHAPSODE_[A-Z_]+", PAGE)) == variables


def test_no_error_is_left_out() -> None:
    kinds = {
        kind.__name__ for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, RhapsodeError)
    }
    assert [name for name in sorted(kinds) if f"`{name}`" not in PAGE] == []


def test_everything_exported_is_there() -> None:
    assert rhapsode_client.__all__ == sorted(rhapsode_client.__all__)
    assert [name for name in rhapsode_client.__all__ if not hasattr(rhapsode_client, name)] == []
