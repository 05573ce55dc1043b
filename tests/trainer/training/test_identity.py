import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from rhapsode_contract.model_directory import Lease, ModelFolder, publish
from rhapsode_trainer import identity
from rhapsode_trainer.identity import code_version, run_key, version_with_key

PARTS: dict[str, Any] = {"recipe": {"seed": 0, "model": {"n_layer": 2}}, "data": {"a.txt": "00"}, "base": None}


def test_the_key_does_not_depend_on_the_order_of_fields() -> None:
    shuffled = {"base": None, "data": {"a.txt": "00"}, "recipe": {"model": {"n_layer": 2}, "seed": 0}}
    assert run_key(**PARTS) == run_key(**shuffled)


@pytest.mark.parametrize(
    "change",
    [
        {"recipe": {"seed": 1, "model": {"n_layer": 2}}},
        {"data": {"a.txt": "01"}},
        {"data": {"b.txt": "00"}},
        {"base": "1234"},
    ],
)
def test_the_key_depends_on_each_part(change: dict[str, Any]) -> None:
    assert run_key(**{**PARTS, **change}) != run_key(**PARTS)


def test_the_key_depends_on_the_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "__file__", str(tmp_path / "identity.py"))
    versions = set()
    for content in ("a = 1", "a = 2"):
        (tmp_path / "identity.py").write_text(content)
        versions.add(code_version())
    (tmp_path / "identity.py").rename(tmp_path / "other.py")
    assert len({*versions, code_version()}) == 3


def published(folder: ModelFolder, lineage: object, alias: str) -> int:
    def write(staging: Path) -> None:
        (staging / "lineage.json").write_text(json.dumps(lineage))

    with Lease.acquire(folder, owner="test") as lease:
        options = {"dtype": "float32", "parameter_count": 1, "actor": "test", "reason": "test"}
        return publish(folder, lease, write=write, alias=alias, **options)


def test_what_is_decided_already_is_found(tmp_path: Path) -> None:
    folder = ModelFolder(tmp_path / "poems")
    assert version_with_key(folder, "a") is None
    assert published(folder, {"key": "a"}, "champion") == 1
    assert published(folder, {"key": "b"}, "candidate") == 2
    assert [version_with_key(folder, key) for key in "abc"] == [1, 2, None]
    published(folder, {"key": "c"}, "champion")
    assert [version_with_key(folder, key) for key in "abc"] == [None, 2, 3], "what was replaced is made again"


@pytest.mark.parametrize("lineage", [{}, [], {"key": 3}, "text"])
def test_a_lineage_without_a_key_is_nothing(lineage: object, tmp_path: Path) -> None:
    folder = ModelFolder(tmp_path / "poems")
    published(folder, lineage, "champion")
    assert version_with_key(folder, "a") is None


def test_finding_nothing_new_takes_less_than_a_second_and_no_torch(tmp_path: Path) -> None:
    folder = ModelFolder(tmp_path / "poems")
    published(folder, {"key": run_key(**PARTS)}, "champion")
    program = f"""
import sys
from rhapsode_contract.model_directory import ModelFolder
from rhapsode_trainer.checkpoints import Checkpoints
from rhapsode_trainer.identity import run_key, version_with_key
from rhapsode_trainer.status import Status
from pathlib import Path
assert version_with_key(ModelFolder(Path({str(folder.path)!r})), run_key(**{PARTS!r})) == 1
assert not {{"torch", "transformers", "numpy"}} & set(sys.modules), "too much was imported"
"""
    start = time.monotonic()
    subprocess.run([sys.executable, "-c", program], check=True)
    assert time.monotonic() - start < 5, "a loaded machine included; alone it takes about 0.3 s"
