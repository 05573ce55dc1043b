"""`rhapsode score` against transformers."""

import json
import math

import pytest
import torch
from rhapsode_client.cli.app import app
from support.publishing import tiny_tokenizer
from typer.testing import CliRunner

EOS = 0
CONTEXT = 1024
TEXT = "the séa,\r\nthe stars\n"


@pytest.fixture
def score(serving, tmp_path):
    """Scores a text; the object that --json prints."""

    def score(text: str, *options: str) -> dict:
        path = tmp_path / "text.txt"
        path.write_bytes(text.encode())
        command = ["score", str(path), "--json", "--model", "gpt2", "--address", serving.address]
        result = CliRunner().invoke(app, [*command, *options])
        assert result.exit_code == 0, result.stderr
        return json.loads(result.stdout)

    return score


@pytest.fixture
def logprobs(serving):
    """Of each token but the first, in one forward."""

    def logprobs(ids: list[int]) -> list[float]:
        with torch.inference_mode():
            logits = serving.models["gpt2"](torch.tensor([ids[:-1]])).logits[0].double()
        rows = torch.log_softmax(logits, dim=-1)
        return [rows[place, token].item() for place, token in enumerate(ids[1:])]

    return logprobs


def bits_per_byte(logprobs: list[float], num_bytes: int) -> float:
    return -math.fsum(logprobs) / math.log(2) / num_bytes


def test_of_a_document_every_byte_is_predicted(score, logprobs):
    scored = score(TEXT)
    expected = logprobs([EOS, *tiny_tokenizer().encode(TEXT).ids, EOS])
    assert (scored["bytes"], scored["num_tokens"]) == (21, len(expected))
    assert scored["bits_per_byte"] == pytest.approx(bits_per_byte(expected, 21), rel=1e-5)
    assert scored["perplexity"] == pytest.approx(math.exp(-math.fsum(expected) / len(expected)), rel=1e-5)
    assert [each["logprob"] for each in scored["tokens"][1:]] == pytest.approx(expected, abs=1e-4)


def test_the_first_token_of_a_fragment_does_not_count(score, logprobs):
    scored, tokens = score(TEXT, "--fragment"), tiny_tokenizer().encode(TEXT)
    expected, num_bytes = logprobs(tokens.ids), 21 - len(TEXT[slice(*tokens.offsets[0])].encode())
    assert (scored["bytes"], scored["num_tokens"]) == (num_bytes, len(expected))
    assert scored["bits_per_byte"] == pytest.approx(bits_per_byte(expected, num_bytes), rel=1e-5)


def test_a_text_longer_than_the_context_is_scored_in_windows(score, logprobs):
    text = "the sea and the stars above it, " * 120
    ids = tiny_tokenizer().encode(text).ids
    assert CONTEXT < len(ids) < CONTEXT + CONTEXT // 2
    start = CONTEXT - 100
    expected = logprobs(ids[: CONTEXT + 1]) + logprobs(ids[start:])[100:]
    scored = score(text, "--fragment", "--overlap", "100")
    assert [each["logprob"] for each in scored["tokens"][1:]] == pytest.approx(expected, abs=1e-3)
    assert scored["num_tokens"] == len(ids) - 1
    assert score(text, "--fragment", "--overlap", "1000")["sum_logprob"] != scored["sum_logprob"]
