import json
import math
from dataclasses import replace
from typing import Any

import pytest
from rhapsode_trainer.evaluation.opponent import Opponent
from rhapsode_trainer.evaluation.quality import Quality
from rhapsode_trainer.evaluation.record import Measured
from rhapsode_trainer.evaluation.scores import Likelihood
from rhapsode_trainer.gate import GateConfig, Verdict, judge

CONFIG = GateConfig(
    tolerance=0.0,
    confidence=0.95,
    max_repetition=0.3,
    max_empty=0.1,
    min_words=5,
    max_words=100,
    canary_text="To be or not to be",
    canary_tolerance=0.05,
)
GOOD = Quality(texts=8, distinct_1=0.6, distinct_2=0.9, distinct_3=1.0, repetition=0.02, empty=0.0, words=50)
FIRST = Opponent(version=None, refused={})
SECOND = Opponent(version=1, refused={})


def bits(value: float, size: int = 100) -> Likelihood:
    return Likelihood(nats=value * size * math.log(2), tokens=size, bytes=size)


def measured(level: float, *, canary: float = 2.0, quality: Quality = GOOD) -> Measured:
    """Twenty documents around `level` bits per byte, with the same ups and downs in every model."""
    documents = [bits(level + 0.1 * (index % 5)) for index in range(20)]
    return Measured(documents=documents, canary=bits(canary), quality=quality)


def decide(new: Measured, champion: Measured | None = None, **options: Any) -> Verdict:
    config = options.pop("config", CONFIG)
    opponent = SECOND if champion else FIRST
    return judge(config, new=new, base=measured(4.0), champion=champion, opponent=opponent, **options)


def failed(verdict: Verdict) -> list[str]:
    return [rule.name for rule in verdict.rules if not rule.passed]


def test_the_first_model_has_to_beat_the_base() -> None:
    verdict = decide(measured(2.0))
    assert verdict.passed
    assert [rule.name for rule in verdict.rules] == [
        "finite",
        "better than base",
        "repetition",
        "emptiness",
        "length",
        "canary text",
    ]
    assert failed(decide(measured(4.1))) == ["better than base"]


@pytest.mark.parametrize(
    ("level", "tolerance", "passes"),
    [(1.99, 0, True), (2.0, 0, False), (2.01, 0, False), (2.01, 0.02, True), (2.03, 0.02, False)],
)
def test_the_next_has_to_beat_the_champion_or_to_stay_within_the_tolerance(
    level: float, tolerance: float, passes: bool
) -> None:
    verdict = decide(measured(level), measured(2.0), config=replace(CONFIG, tolerance=tolerance))
    assert failed(verdict) == ([] if passes else ["better than champion"])


def test_an_improvement_that_may_be_chance_is_none() -> None:
    champion = measured(2.0)
    luck = [bits(2.0 + 0.1 * (index % 5) + (-0.5 if index == 0 else 0.02)) for index in range(20)]
    verdict = decide(replace(measured(2.0), documents=luck), champion)
    rule = next(rule for rule in verdict.rules if rule.name == "better than champion")
    assert rule.interval is not None
    assert rule.interval.estimate < 0 < rule.interval.high
    assert not verdict.passed


def test_one_nan_anywhere_fails_whatever_the_rest() -> None:
    good = measured(1.0)
    broken = replace(good, documents=[*good.documents[:-1], bits(math.nan)])
    verdict = decide(broken, measured(2.0))
    assert failed(verdict) == ["finite", "better than base", "better than champion"]
    document = json.dumps(verdict.as_dict(), allow_nan=False)
    assert json.loads(document)["rules"][0]["value"] == 1
    assert failed(decide(replace(good, canary=bits(math.nan)))) == ["canary text"]


def test_a_champion_without_finite_likelihood_is_no_obstacle() -> None:
    champion = replace(measured(2.0), documents=[bits(math.nan)] * 20, canary=bits(math.nan))
    assert decide(measured(2.0), champion).passed


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        ("repetition", 0.31, "repetition"),
        ("repetition", math.nan, "repetition"),
        ("empty", 0.2, "emptiness"),
        ("words", 4.0, "length"),
        ("words", 101.0, "length"),
    ],
)
def test_bounds_on_generated_text(field: str, value: float, rule: str) -> None:
    assert failed(decide(measured(2.0, quality=replace(GOOD, **{field: value})))) == [rule]


@pytest.mark.parametrize(("canary", "passes"), [(2.04, True), (2.06, False), (1.0, True)])
def test_the_canary_text_is_compared_with_the_better_of_base_and_champion(canary: float, passes: bool) -> None:
    verdict = judge(
        CONFIG,
        new=measured(1.0, canary=canary),
        base=measured(4.0, canary=2.0),
        champion=measured(3.0, canary=2.5),
        opponent=SECOND,
    )
    assert failed(verdict) == ([] if passes else ["canary text"])


def test_rules_that_the_recipe_does_not_use_are_left_out() -> None:
    plain = Measured(documents=measured(2.0).documents)
    verdict = judge(replace(CONFIG, canary_text=""), new=plain, base=measured(4.0), champion=None, opponent=FIRST)
    assert [rule.name for rule in verdict.rules] == ["finite", "better than base"]


def test_force_opens_the_gate_and_is_recorded() -> None:
    verdict = decide(measured(4.1), forced=True)
    assert (verdict.passed, verdict.accepted) == (False, True)
    assert verdict.summary.startswith("forced although it failed: better than base: +0.1000 bits per byte")
    record = verdict.as_dict()
    assert (record["passed"], record["forced"], record["accepted"]) == (False, True, True)
    assert not decide(measured(4.1)).accepted


def test_the_record_has_every_number_and_bound() -> None:
    opponent = Opponent(version=1, refused={2: "rolled_back by a: slow"})
    verdict = judge(CONFIG, new=measured(1.9), base=measured(4.0), champion=measured(2.0), opponent=opponent)
    record = json.loads(json.dumps(verdict.as_dict(), allow_nan=False))
    assert record["opponent"] == 1
    assert record["refused_by_the_fleet"] == {"2": "rolled_back by a: slow"}
    assert record["config"]["max_repetition"] == 0.3
    rule = next(rule for rule in record["rules"] if rule["name"] == "better than champion")
    assert rule["passed"]
    assert rule["interval"]["estimate"] == pytest.approx(-0.1)
    assert (rule["low"], rule["high"], rule["strict"]) == (None, 0.0, True)
    assert verdict.summary == "passed 7 rules"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tolerance", -0.1),
        ("tolerance", math.nan),
        ("confidence", 1.0),
        ("max_repetition", 1.1),
        ("max_empty", -1),
        ("min_words", -1),
        ("max_words", 4),
        ("canary_tolerance", -0.1),
    ],
)
def test_a_config_that_makes_no_sense_names_the_field(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"^{field}: "):
        replace(CONFIG, **{field: value})
