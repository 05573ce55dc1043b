"""Random and mutated requests: each gets a proper answer, and the server is as before."""

import os

from support.fuzzing import IS_LONG

from .calls import run
from .cases import METHODS, make_case
from .conftest import Target

SEED = int(os.environ.get("RHAPSODE_FUZZ_SEED", "0"))
NUM_CASES = 20_000 if IS_LONG else 400


def numbers() -> list[int]:
    """Those that RHAPSODE_FUZZ_CASES lists, to see a fault again; else all."""
    chosen = os.environ.get("RHAPSODE_FUZZ_CASES")
    return [int(number) for number in chosen.split(",")] if chosen else list(range(NUM_CASES))


async def test_every_request_gets_a_proper_answer(target: Target) -> None:
    chosen = numbers()
    report = await run(target.address, (make_case(SEED, number) for number in chosen))
    print(f"seed {SEED}:", *sorted(report.counts.items()), sep="\n  ")
    assert not report.faults, report.text(target.process.output)
    if len(chosen) >= len(METHODS):
        answered = {key.partition(" ")[0] for key in report.counts if key.endswith(" OK")}
        assert answered == {method.name for method in METHODS}, "not every RPC was reached by a valid request"


def test_a_case_is_made_of_its_number() -> None:
    cases = [make_case(3, number) for number in range(50)]
    assert cases == [make_case(3, number) for number in range(50)]
    assert cases != [make_case(4, number) for number in range(50)]
