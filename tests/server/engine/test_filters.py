from collections.abc import Iterator

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from rhapsode_server.engine.filters import Nucleus, kept, top_p_limits
from rhapsode_server.engine.request import SamplingParameters
from support.sampling import near_limit, warped
from torch import Tensor

FILTERS = {
    "top_k": st.integers(1, 60),
    "top_p": st.floats(0.001, 0.999),
    "min_p": st.floats(0.0001, 1.0),
    "typical_p": st.floats(0.001, 0.999),
}
tied = st.integers(-4, 4).map(float)
spread = st.floats(-30, 30, width=32)
masked = st.just(-float("inf"))


def vocabularies(*values: st.SearchStrategy[float]) -> st.SearchStrategy[Tensor]:
    tensors = st.lists(st.one_of(*values), min_size=1, max_size=60).map(torch.tensor)
    return tensors.filter(lambda x_V: bool(x_V.amax().isfinite()))


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Small tensors: several threads would mostly wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def survivors(x_V: Tensor, row: SamplingParameters) -> Tensor:
    values_1V, ids_1V = x_V[None].sort(dim=1, descending=True)
    kept_1V = kept(values_1V, [row]) & (values_1V > -torch.inf)
    return torch.zeros_like(kept_1V).scatter(1, ids_1V, kept_1V)[0]


def oracle(x_V: Tensor, row: SamplingParameters) -> Tensor:
    """What the warpers keep, and the tokens that equal one of these: TopPLogitsWarper drops some of them by chance."""
    return torch.isin(x_V, x_V[warped(x_V, row) > -torch.inf])


@pytest.mark.parametrize("name", FILTERS)
@settings(deadline=None, max_examples=80)
@given(data=st.data(), x_V=vocabularies(tied, spread, masked))
def test_each_keeps_what_its_warper_keeps(name: str, data: st.DataObject, x_V: Tensor) -> None:
    row = SamplingParameters(temperature=1.0, **{name: data.draw(FILTERS[name])})
    assume(not near_limit(x_V, row))
    assert torch.equal(survivors(x_V, row), oracle(x_V, row))


@settings(deadline=None)
@given(
    row=st.builds(SamplingParameters, temperature=st.just(1.0), **FILTERS),
    x_V=vocabularies(spread, spread, spread, masked).filter(lambda x_V: len(x_V.unique()) == len(x_V)),
)
def test_all_of_them_keep_what_the_warpers_keep_in_order(row: SamplingParameters, x_V: Tensor) -> None:
    """Without ties: what TopPLogitsWarper drops of equal tokens would be missing from the sums of later filters."""
    assume(not near_limit(x_V, row))
    assert torch.equal(survivors(x_V, row), oracle(x_V, row))


@settings(deadline=None)
@given(
    rows=st.lists(st.builds(SamplingParameters, temperature=st.just(1.0), **FILTERS), min_size=2, max_size=6),
    x_V=vocabularies(tied, spread, masked),
)
def test_rows_are_filtered_each_by_its_own(rows: list[SamplingParameters], x_V: Tensor) -> None:
    values_RV = x_V.sort(descending=True).values.expand(len(rows), -1)
    together_RV = kept(values_RV, rows)
    assert torch.equal(together_RV, torch.cat([kept(values_RV[:1], [row]) for row in rows]))


@settings(deadline=None)
@given(top_p=FILTERS["top_p"], x_V=vocabularies(tied, spread, masked))
def test_a_nucleus_holds_what_top_p_keeps(top_p: float, x_V: Tensor) -> None:
    row = SamplingParameters(temperature=1.0, top_p=top_p)
    assume(not near_limit(x_V, row))
    open_V = x_V[x_V > -torch.inf]
    x_RV = x_V.expand(len(open_V), -1)
    nucleus = Nucleus(x=x_RV, peak=x_RV.amax(1, keepdim=True), top_p=top_p_limits(x_RV, [row] * len(open_V)))
    assert torch.equal(nucleus.holds(open_V[:, None]), survivors(x_V, row)[x_V > -torch.inf])
