import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rhapsode_server.engine.likeliest import first_argmax, first_likeliest, likeliest, tile_maxima
from torch import Tensor

INF = float("inf")
# Few different values, so that many are tied.
rows = st.lists(st.sampled_from([0.0, 1.0, 2.0, 3.0, -INF]), min_size=1, max_size=300)
matrices = rows.map(lambda values: torch.stack((torch.tensor(values), torch.tensor(values[::-1]))))


@settings(deadline=None)
@given(x_RV=matrices, data=st.data())
def test_likeliest_are_those_of_a_stable_sort(x_RV: Tensor, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, x_RV.shape[1]))
    expected = x_RV.sort(dim=1, descending=True, stable=True)
    values_RK, ids_RK = first_likeliest(x_RV, count)
    assert torch.equal(values_RK, expected.values[:, :count])
    assert torch.equal(ids_RK, expected.indices[:, :count])
    values_RK, ids_RK = likeliest(x_RV, count)
    assert torch.equal(values_RK, expected.values[:, :count])
    for x_V, values_K, ids_K in zip(x_RV, values_RK, ids_RK, strict=True):
        ids = ids_K[values_K > -INF]
        assert torch.equal(x_V[ids], values_K[values_K > -INF])
        assert len(ids.unique()) == len(ids)


@pytest.mark.parametrize("vocabulary", [1, 63, 64, 65, 5000])
@pytest.mark.parametrize("count", [1, 20, 200])
def test_likeliest_of_a_vocabulary(vocabulary: int, count: int) -> None:
    x_RV = torch.randn(3, vocabulary, generator=torch.Generator().manual_seed(0))
    count = min(count, vocabulary)
    for values_RK, ids_RK in (likeliest(x_RV, count), first_likeliest(x_RV, count)):
        assert torch.equal(values_RK, x_RV.topk(count).values)
        assert torch.equal(ids_RK, x_RV.topk(count).indices)


@settings(deadline=None)
@given(x_RV=matrices)
def test_argmax_takes_the_lowest_id(x_RV: Tensor) -> None:
    expected = [row.index(max(row)) for row in x_RV.tolist()]
    assert first_argmax(x_RV).tolist() == expected


def test_nan_is_the_largest() -> None:
    x_RV = torch.zeros(1, 200)
    x_RV[0, [70, 150]] = torch.tensor([INF, float("nan")])
    assert first_argmax(x_RV).item() == 150
    assert tile_maxima(x_RV)[0].isnan().tolist() == [False, False, True, False]
