"""What a version's own files say for what a request leaves unset."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from rhapsode_server.engine.refusal import ModelRefused
from rhapsode_server.models.defaults import read_defaults

HUGE = 10**400


def write(path: Path, **fields: Any) -> None:
    (path / "generation_config.json").write_text(json.dumps({"do_sample": True, **fields}))


def test_what_the_file_says_is_the_default(tmp_path: Path) -> None:
    write(tmp_path, temperature=0.5, top_k=7, eos_token_id=[1, 2, 99, HUGE], bos_token_id=3)
    defaults = read_defaults(tmp_path, 10)
    assert (defaults.temperature, defaults.top_k, defaults.top_p) == (0.5, 7, 1.0)
    assert (defaults.bos_token_id, defaults.eos_token_ids) == (3, (1, 2)), "ids of another model are passed over"


@pytest.mark.parametrize(
    "field", ["temperature", "top_k", "top_p", "min_p", "typical_p", "repetition_penalty", "bos_token_id"]
)
@pytest.mark.parametrize("value", [HUGE, -HUGE, math.inf, math.nan, "many", {}])
def test_a_bad_number_is_refused_by_name(tmp_path: Path, field: str, value: object) -> None:
    write(tmp_path, **{field: value})
    if field == "bos_token_id" and isinstance(value, int):
        assert read_defaults(tmp_path, 10).bos_token_id is None
        return
    with pytest.raises(ModelRefused, match=rf"^load_failed: generation_config\.json .*: {field}: "):
        read_defaults(tmp_path, 10)
