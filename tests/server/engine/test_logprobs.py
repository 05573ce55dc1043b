import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rhapsode_server.engine import logprobs
from rhapsode_server.engine.logprobs import token_scores
from rhapsode_server.engine.request import TokenScore
from torch import Tensor

VOCABULARY = 30
values = st.one_of(st.integers(-2, 2).map(float), st.floats(-80, 80, width=32), st.just(-float("inf")))
rows = st.lists(values, min_size=VOCABULARY, max_size=VOCABULARY).map(torch.tensor)


def by_definition(logits_V: Tensor, token_id: int, count: int) -> TokenScore:
    logprobs_V = logits_V.double().log_softmax(0).tolist()
    rank = sum(value >= logits_V[token_id] for value in logits_V)
    likeliest = sorted(range(len(logits_V)), key=lambda i: (-logits_V[i].item(), i))[:count]
    return TokenScore(token_id, logprobs_V[token_id], int(rank), tuple((i, logprobs_V[i]) for i in likeliest))


def close(actual: TokenScore, expected: TokenScore) -> bool:
    pairs = zip(actual.candidates, expected.candidates, strict=True)
    same = actual.token_id == expected.token_id and actual.rank == expected.rank
    near = math.isclose(actual.logprob, expected.logprob, abs_tol=1e-4)
    return same and near and all(a[0] == b[0] and math.isclose(a[1], b[1], abs_tol=1e-4) for a, b in pairs)


@settings(deadline=None)
@given(
    batch=st.lists(
        st.tuples(
            rows.filter(lambda x_V: bool(x_V.amax().isfinite())), st.integers(0, VOCABULARY - 1), st.integers(0, 20)
        ),
        min_size=1,
        max_size=5,
    )
)
def test_equals_the_definition(batch: list[tuple[Tensor, int, int]]) -> None:
    logits, token_ids, counts = zip(*batch, strict=True)
    scores = token_scores(torch.stack(logits), torch.tensor(token_ids), counts).read()
    assert all(map(close, scores, map(by_definition, logits, token_ids, counts)))


def test_the_likeliest_token_has_rank_one_and_is_the_first_candidate() -> None:
    logits_NV = torch.randn(40, 5000, generator=torch.Generator().manual_seed(0)) * 3 - 80
    likeliest_N = logits_NV.argmax(1)
    for score, token_id in zip(token_scores(logits_NV, likeliest_N, 5).read(), likeliest_N.tolist(), strict=True):
        assert score.rank == 1
        assert score.candidates[0] == (token_id, score.logprob)
        assert [logprob for _, logprob in score.candidates] == sorted((p for _, p in score.candidates), reverse=True)


def test_logprobs_are_accurate_far_from_zero() -> None:
    logits_NV = torch.randn(20, 5000, generator=torch.Generator().manual_seed(0)) - 500
    ids_N = torch.arange(20)
    expected_N = logits_NV.double().log_softmax(1).gather(1, ids_N[:, None]).squeeze(1)
    actual_N = torch.tensor([score.logprob for score in token_scores(logits_NV, ids_N, 0).read()])
    torch.testing.assert_close(actual_N.double(), expected_N, atol=2e-6, rtol=0)


def test_chunks_change_nothing_and_bound_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    logits_NV = torch.randn(50, 300, generator=torch.Generator().manual_seed(0))
    ids_N, counts = torch.arange(50), [number % 6 for number in range(50)]
    whole = token_scores(logits_NV, ids_N, counts).read()
    sizes = []
    score = logprobs._score
    monkeypatch.setattr(logprobs, "_score", lambda x_NV, *rest: sizes.append(x_NV.numel()) or score(x_NV, *rest))
    monkeypatch.setattr(logprobs, "_CHUNK", 2000)
    assert token_scores(logits_NV, ids_N, counts).read() == whole
    assert max(sizes) <= 2000
    assert sum(sizes) == 50 * 300


def test_half_precision_is_scored_in_float32() -> None:
    logits_NV = torch.randn(4, 300, generator=torch.Generator().manual_seed(0)).bfloat16()
    ids_N = torch.arange(4)
    assert token_scores(logits_NV, ids_N, 3).read() == token_scores(logits_NV.float(), ids_N, 3).read()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_bad_row_is_told_by_its_logprob(value: float) -> None:
    logits_NV = torch.zeros(3, 300)
    logits_NV[1, 70] = value
    scores = token_scores(logits_NV, torch.arange(3), 2).read()
    assert [math.isnan(score.logprob) for score in scores] == [False, True, False]


def test_more_candidates_than_tokens_and_no_rows() -> None:
    scores = token_scores(torch.zeros(1, 3), torch.tensor([2]), 20).read()
    assert [token_id for token_id, _ in scores[0].candidates] == [0, 1, 2]
    assert scores[0].rank == 3
    assert token_scores(torch.empty(0, 3), torch.empty(0, dtype=torch.int64), []).read() == []


def test_an_accelerator_is_never_waited_for() -> None:
    """A meta tensor has no values: any decision that read one would raise."""
    x_NV, counts = torch.zeros(3, 300, device="meta"), [1, 2, 3]
    assert logprobs._score(x_NV, torch.zeros(3, dtype=torch.int64, device="meta"), max(counts))[2].shape == (3, 3)
