import json
from pathlib import Path

import pytest
from rhapsode_contract.model_directory import ModelFolder
from rhapsode_trainer.errors import ConfigError
from rhapsode_trainer.evaluation.opponent import find_opponent, refusal


@pytest.fixture
def folder(tmp_path: Path) -> ModelFolder:
    path = tmp_path / "models" / "poems"
    path.mkdir(parents=True)
    (path / "aliases.json").write_text('{"champion": 3, "previous": 2}')
    (tmp_path / "feedback").mkdir()
    return ModelFolder(path)


def write(tmp_path: Path, file: str, verdict: str) -> None:
    path = tmp_path / "feedback" / "poems" / file
    path.parent.mkdir(exist_ok=True)
    document = {"schema_version": 1, "verdict": verdict, "reason": "canary differs", "server": "node-1"}
    path.write_text(json.dumps(document))


def test_the_champion_is_the_one_to_beat(folder: ModelFolder, tmp_path: Path) -> None:
    assert find_opponent(folder, None).version == 3
    write(tmp_path, "3.json", "serving")
    write(tmp_path, "2.json", "quarantined")
    opponent = find_opponent(folder, tmp_path / "feedback")
    assert (opponent.version, opponent.refused) == (3, {})


@pytest.mark.parametrize("verdict", ["quarantined", "rolled_back"])
def test_one_that_the_fleet_refused_is_not(folder: ModelFolder, tmp_path: Path, verdict: str) -> None:
    write(tmp_path, "3.json", verdict)
    opponent = find_opponent(folder, tmp_path / "feedback")
    assert opponent.version == 2
    assert opponent.refused == {3: f"{verdict} by node-1: canary differs"}
    write(tmp_path, "2.json", verdict)
    assert find_opponent(folder, tmp_path / "feedback").version is None


def test_one_server_that_refuses_is_enough(folder: ModelFolder, tmp_path: Path) -> None:
    write(tmp_path, "3.node-1.json", "serving")
    write(tmp_path, "3.node-2.json", "quarantined")
    write(tmp_path, "33.json", "serving")
    assert refusal(tmp_path / "feedback", "poems", 3) == "quarantined by node-1: canary differs"
    assert refusal(tmp_path / "feedback", "poems", 33) is None


def test_without_aliases_there_is_none_to_beat(tmp_path: Path) -> None:
    assert find_opponent(ModelFolder(tmp_path / "poems"), None).version is None


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b"[]",
        b"{}",
        b'{"schema_version": 2, "verdict": "serving", "reason": "", "server": ""}',
        b'{"schema_version": 1, "verdict": "fine", "reason": "", "server": ""}',
        b"\xff",
    ],
)
def test_a_file_that_is_no_verdict_is_named(folder: ModelFolder, tmp_path: Path, content: bytes) -> None:
    write(tmp_path, "3.json", "serving")
    (tmp_path / "feedback" / "poems" / "3.json").write_bytes(content)
    with pytest.raises(ConfigError, match=r"--feedback-dir: .*3\.json"):
        find_opponent(folder, tmp_path / "feedback")


def test_a_folder_that_is_not_there_is_a_mistake(folder: ModelFolder, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such folder"):
        find_opponent(folder, tmp_path / "elsewhere")
