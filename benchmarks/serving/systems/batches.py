"""Static batches, for systems that take requests by whole batches."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import cycle

from benchmarks.serving.figures import Measured, Timeline
from benchmarks.serving.meter import Meter
from benchmarks.serving.recorder import Plan, Recorder, now
from benchmarks.serving.workload import Request

Generate = Callable[[Sequence[Request], Sequence[Timeline], Recorder], None]


def run_batches(plan: Plan, meter: Meter, generate: Generate) -> Measured:
    """Batches of `callers` requests each, neighbours in length of prompt, which is what such systems do best with.

    A run does whole batches until its time is over. Short and long prompts alternate, and every turn begins at another
    batch, so that a few stand for all.
    """
    assert not plan.arrivals, "static batches have closed loops only"
    recorder = Recorder(replace(plan, seconds=None), meter)
    began = now()
    for batch in batches_in_order(plan):
        timelines = [recorder.submitted(request) for request in batch]
        generate(batch, timelines, recorder)
        assert [each.num_tokens for each in timelines] == [each.num_tokens for each in batch]
        if plan.seconds is not None and now() - began >= plan.seconds:
            break
    return recorder.result()


def batches_in_order(plan: Plan) -> Iterator[list[Request]]:
    order = in_spread_order(batches_of(plan.requests, plan.callers))
    start = plan.turn % len(order)
    rotated = [*order[start:], *order[:start]]
    return iter(rotated) if plan.seconds is None else cycle(rotated)


def batches_of(requests: Sequence[Request], size: int) -> list[list[Request]]:
    by_length = sorted(requests, key=lambda request: len(request.prompt_ids))
    return [by_length[start : start + size] for start in range(0, len(by_length), size)]


def in_spread_order(batches: list[list[Request]]) -> list[list[Request]]:
    """The middle first, then the quarters, the eighths and so on."""
    bits = len(batches).bit_length()
    fractions = [int(f"{i:0{bits}b}"[::-1], 2) / 2**bits for i in [*range(1, 2**bits), 0]]
    return [batches[i] for i in dict.fromkeys(int(fraction * len(batches)) for fraction in fractions)]
