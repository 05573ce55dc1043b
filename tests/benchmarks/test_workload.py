"""The requests: real tokens of real text, and the same ones every time."""

import random
import statistics
from itertools import pairwise

import pytest
from tokenizers import Tokenizer

from benchmarks.serving.recorder import Plan
from benchmarks.serving.systems.batches import batches_of, in_spread_order
from benchmarks.serving.workload import (
    Request,
    Sizes,
    gpt2_tokenizer,
    make_requests,
    poisson_arrivals,
    steady_start,
    wikitext,
    with_preamble,
)

SIZES = Sizes()


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return gpt2_tokenizer()


@pytest.fixture(scope="module")
def text() -> str:
    return wikitext(None)[:40_000]


@pytest.fixture(scope="module")
def requests(tokenizer: Tokenizer, text: str) -> list[Request]:
    return make_requests(tokenizer, text, 40, SIZES, seed=0)


def request(length: int, num_tokens: int = 1) -> Request:
    return Request(prompt="", prompt_ids=(0,) * length, num_tokens=num_tokens)


def test_the_tokenizer_is_gpt2s(tokenizer: Tokenizer):
    assert tokenizer.get_vocab_size() == 50257
    assert tokenizer.encode("Hello world").ids == [15496, 995]
    assert tokenizer.encode("naïve 東京<|endoftext|>").ids == [2616, 38776, 10545, 251, 109, 12859, 105, 50256]


def test_prompts_are_what_their_text_is_tokenised_to(tokenizer: Tokenizer, requests: list[Request]):
    for each in requests:
        assert tuple(tokenizer.encode(each.prompt).ids) == each.prompt_ids
        assert SIZES.prompt[0] <= len(each.prompt_ids) <= SIZES.prompt[1]
        assert SIZES.output[0] <= each.num_tokens <= SIZES.output[1]
    assert len({each.prompt_ids for each in requests}) == len(requests)


def test_a_seed_gives_the_same_requests(tokenizer: Tokenizer, text: str, requests: list[Request]):
    assert make_requests(tokenizer, text, 3, SIZES, seed=0) == requests[:3]
    assert make_requests(tokenizer, text, 3, SIZES, seed=1) != requests[:3]


def test_lengths_are_lognormal_between_their_bounds():
    generator = random.Random(0)
    lengths = [SIZES.draw_prompt(generator) for _ in range(4000)]
    assert (min(lengths), max(lengths)) == (16, 256)
    assert statistics.median(lengths) == pytest.approx(64, rel=0.1)
    assert 0.02 < sum(length == 256 for length in lengths) / len(lengths) < 0.08


def test_behind_a_preamble_ids_and_text_agree(tokenizer: Tokenizer, requests: list[Request]):
    joined = with_preamble(tokenizer, requests[0], requests[1:4])
    for before, after in zip(requests[1:4], joined, strict=True):
        assert after.prompt == f"{requests[0].prompt}\n{before.prompt}"
        assert tuple(tokenizer.encode(after.prompt).ids) == after.prompt_ids
        assert after.num_tokens == before.num_tokens


def test_arrivals_are_poisson():
    arrivals = poisson_arrivals(rate=50.0, seconds=100.0, seed=0)
    gaps = [later - earlier for earlier, later in pairwise(arrivals)]
    assert arrivals == sorted(arrivals)
    assert arrivals[-1] < 100
    assert len(arrivals) == pytest.approx(5000, rel=0.05)
    assert statistics.stdev(gaps) == pytest.approx(statistics.mean(gaps), rel=0.05)


def test_a_loop_begins_as_if_it_had_run_for_long():
    asked = [request(1, 100) for _ in range(2000)]
    begun = steady_start(asked, 1000, seed=0)
    assert begun[1000:] == asked[1000:]
    assert all(1 <= each.num_tokens <= 100 for each in begun)
    assert statistics.mean(each.num_tokens for each in begun[:1000]) == pytest.approx(50, rel=0.1)


def test_without_a_limit_of_time_each_request_is_done_once():
    asked = tuple(request(length) for length in range(1, 6))
    assert tuple(Plan(requests=asked, callers=2).source()) == asked


def test_batches_hold_neighbours_and_come_spread():
    batches = batches_of([request(length) for length in (5, 1, 8, 3, 7, 2, 6, 4, 9)], size=2)
    assert [[len(each.prompt_ids) for each in batch] for batch in batches] == [[1, 2], [3, 4], [5, 6], [7, 8], [9]]
    order = in_spread_order(batches)
    assert sorted(map(id, order)) == sorted(map(id, batches))
    assert order[:3] == [batches[2], batches[1], batches[3]]
