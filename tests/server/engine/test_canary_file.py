"""canary.json, and what is wrong with it."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from rhapsode_server.engine.canary_file import Canary, read_canary
from rhapsode_server.engine.refusal import ModelRefused

CANARY: dict[str, Any] = {
    "schema_version": 1,
    "prompt_ids": [1],
    "continuation_ids": [2, 3],
    "logprobs": [-1.0, -2],
    "margins": [0.5, 0],
}


def read(path: Path, **fields: Any) -> Canary | None:
    (path / "canary.json").write_text(json.dumps(CANARY | fields))
    return read_canary(path)


def test_what_was_recorded(tmp_path: Path) -> None:
    canary = read(tmp_path)
    assert canary is not None
    assert (canary.fed_ids, canary.logprobs, canary.margins) == ([1, 2], [-1.0, -2], [0.5, 0])


def test_nothing_was_recorded(tmp_path: Path) -> None:
    assert read_canary(tmp_path) is None


@pytest.mark.parametrize("field", ["logprobs", "margins"])
@pytest.mark.parametrize("number", [10**400, -(10**400), math.inf, math.nan, True, "1", None])
def test_a_number_that_is_none_is_named(tmp_path: Path, field: str, number: object) -> None:
    with pytest.raises(ModelRefused, match=rf"^canary_off: canary\.json: {field} is no list of finite numbers"):
        read(tmp_path, **{field: [-1.0, number]})
