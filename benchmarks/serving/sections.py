"""The measurements beside the closed loops: arrivals at random, and a preamble that many prompts share."""

import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice

from tokenizers import Tokenizer

from benchmarks.serving.figures import Measured
from benchmarks.serving.processes import Host
from benchmarks.serving.recorder import Plan
from benchmarks.serving.workload import (
    PREAMBLE_LENGTH,
    Request,
    Sizes,
    cut,
    make_requests,
    poisson_arrivals,
    with_preamble,
)

SHARES = (0.5, 0.8, 0.95)
WARM_UP_SECONDS = 2.0
NUM_TAILS = 6
TAILS = Sizes(prompt=(16, 64), output=(8, 8))


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenLoop:
    """A Poisson loop at a share of a system's own capacity, the tokens/s of its largest closed loop."""

    share: float
    requests_per_second: float
    capacity: float
    measured: Measured


def open_loop(host: Host, requests: Sequence[Request], capacity: float, share: float, seconds: float) -> OpenLoop:
    mean = statistics.mean(each.num_tokens for each in requests)
    rate = share * capacity / mean
    arrivals = poisson_arrivals(rate, WARM_UP_SECONDS + seconds, seed=round(100 * share))
    plan = Plan(
        requests=tuple(islice(cycle(requests), len(arrivals))),
        arrivals=tuple(arrivals),
        seconds=seconds,
        warm_up=WARM_UP_SECONDS,
    )
    return OpenLoop(share=share, requests_per_second=rate, capacity=capacity, measured=host.run(plan))


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixReuse:
    """Median seconds to the first token of prompts behind a preamble: of its own, or one that was there before.

    `hit_rate` is the share of the latter prompts' tokens that came from the cache.
    """

    preamble: int
    cold_seconds: float
    hit_seconds: float
    hit_rate: float


def prefix_reuse(host: Host, tokenizer: Tokenizer, text: str) -> PrefixReuse:
    """One caller; the server must keep prefixes."""
    generator, ids = random.Random(0), tokenizer.encode(text).ids
    preambles = [cut(tokenizer, ids, generator, PREAMBLE_LENGTH, 1) for _ in range(NUM_TAILS + 2)]
    tails = make_requests(tokenizer, text, 2 * NUM_TAILS + 2, TAILS, seed=1)
    shared = with_preamble(tokenizer, preambles[0], tails[: NUM_TAILS + 1])
    own = [
        with_preamble(tokenizer, preamble, [tail])[0]
        for preamble, tail in zip(preambles[1:], tails[NUM_TAILS + 1 :], strict=True)
    ]
    # The first of either is a warm-up; that of the shared preamble computes it.
    cold, hits = host.run(Plan(requests=tuple(own))), host.run(Plan(requests=tuple(shared)))
    return PrefixReuse(
        preamble=PREAMBLE_LENGTH,
        cold_seconds=statistics.median(cold.first_token_seconds[1:]),
        hit_seconds=statistics.median(hits.first_token_seconds[1:]),
        hit_rate=sum(hits.num_cached_tokens[1:]) / sum(hits.num_prompt_tokens[1:]),
    )
