"""What the front-end reads of a version, and the tokenizer compared with what its publisher recorded."""

import json
from pathlib import Path
from typing import Any

import pytest
from rhapsode_server.engine.refusal import ModelRefused
from rhapsode_server.models.files import read_files
from rhapsode_trainer.publish.canary import record_tokenizer
from support.publishing import tiny_tokenizer

CANARY: dict[str, Any] = {
    "schema_version": 1,
    "prompt_ids": [1],
    "continuation_ids": [2],
    "logprobs": [-1.0],
    "margins": [0.5],
}


@pytest.fixture
def version(tmp_path: Path) -> Path:
    tiny_tokenizer().save(str(tmp_path / "tokenizer.json"))
    record = record_tokenizer(tmp_path / "tokenizer.json")
    probes = [{"text": probe.text, "ids": probe.ids} for probe in record.probes]
    write_canary(tmp_path, tokenizer={"sha256": record.sha256, "probes": probes})
    return tmp_path


def write_canary(version: Path, **fields: Any) -> None:
    (version / "canary.json").write_text(json.dumps(CANARY | fields))


def test_the_tokenizer_that_was_recorded_is_accepted(version: Path) -> None:
    assert read_files(version).tokenizer.vocabulary_size == 320


def test_a_canary_without_a_tokenizer_and_no_canary_are_accepted(version: Path) -> None:
    write_canary(version)
    read_files(version)
    (version / "canary.json").unlink()
    read_files(version)


@pytest.mark.parametrize("at", range(0, 60, 7))
def test_two_merges_exchanged_are_refused(version: Path, at: int) -> None:
    file = version / "tokenizer.json"
    document = json.loads(file.read_text())
    merges = document["model"]["merges"]
    merges[at], merges[at + 1] = merges[at + 1], merges[at]
    file.write_text(json.dumps(document))
    with pytest.raises(ModelRefused, match=r"^tokenizer_mismatch: tokenizer\.json (gives other ids|is not the one)"):
        read_files(version)


def test_other_ids_are_refused_even_of_the_same_file(version: Path) -> None:
    document = json.loads((version / "canary.json").read_text())
    document["tokenizer"]["probes"][1]["ids"][0] += 1
    (version / "canary.json").write_text(json.dumps(document))
    with pytest.raises(ModelRefused, match=r"gives other ids than were recorded for \"Shall I compare"):
        read_files(version)


def test_a_canary_that_is_none_is_refused(version: Path) -> None:
    write_canary(version, tokenizer={"sha256": "", "probes": 1})
    with pytest.raises(ModelRefused, match=r"^canary_off: canary\.json: probes are no objects"):
        read_files(version)
