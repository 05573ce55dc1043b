"""What the trainer measured, as far as it can be understood."""

from pathlib import Path

import pytest
from rhapsode_server.models.evaluation import read_evaluation
from rhapsode_server.models.served import EvaluationSummary


def read(path: Path, text: str) -> EvaluationSummary | None:
    (path / "evaluation.json").write_text(text)
    return read_evaluation(path)


def test_what_was_measured(tmp_path: Path) -> None:
    text = '{"after": {"bits_per_byte": 1.5, "perplexity": 7}, "verdict": {"accepted": true}}'
    assert read(tmp_path, text) == EvaluationSummary(bits_per_byte=1.5, perplexity=7.0, accepted=True)


@pytest.mark.parametrize("number", ["1" + "0" * 400, "-1" + "0" * 400, "1e999", "NaN", "true", '"1"', "null", "[]"])
def test_a_number_that_is_none_was_not_measured(tmp_path: Path, number: str) -> None:
    text = '{"after": {"bits_per_byte": 1.5, "perplexity": %s}}'
    assert read(tmp_path, text % number) == EvaluationSummary(bits_per_byte=1.5)


@pytest.mark.parametrize("text", ["", "[]", "{}", "[" * 100_000, '{"after": 3, "verdict": []}'])
def test_nothing_was_measured(tmp_path: Path, text: str) -> None:
    assert read(tmp_path, text) is None


def test_there_is_no_evaluation(tmp_path: Path) -> None:
    assert read_evaluation(tmp_path) is None
