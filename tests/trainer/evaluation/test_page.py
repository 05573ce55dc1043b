import math
from html.parser import HTMLParser
from typing import Any

import pytest
from rhapsode_trainer.evaluation.opponent import Opponent
from rhapsode_trainer.evaluation.quality import measure_quality
from rhapsode_trainer.evaluation.record import Measured, model_record
from rhapsode_trainer.evaluation.scores import Likelihood
from rhapsode_trainer.gate import GateConfig, judge
from rhapsode_trainer.publish.curve import Curve, curve_of, draw_curve
from rhapsode_trainer.publish.page import Page, report_page

EVIL = "<script>alert('x')</script>\x1b[31m&amp;"
GATE = GateConfig(
    tolerance=0.0,
    confidence=0.95,
    max_repetition=0.5,
    max_empty=0,
    min_words=1,
    max_words=9,
    canary_text="",
    canary_tolerance=0,
)
VOID = {"meta", "br", "hr", "img", "link", "input"}


class Reader(HTMLParser):
    """Collects text and attributes and insists that tags are closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def read(html: str) -> Reader:
    reader = Reader()
    reader.feed(html)
    reader.close()
    assert reader.open == []
    return reader


def measured(bits: float) -> Measured:
    documents = [Likelihood(nats=bits * 100 * math.log(2), tokens=30, bytes=100)] * 3
    return Measured(documents=documents, quality=measure_quality(["three plain words"]))


def evaluation(new: float, **options: Any) -> dict[str, Any]:
    models = {"before": measured(8.0), "champion": measured(2.5), "after": measured(new)}
    opponent = Opponent(version=3, refused={4: f"quarantined by {EVIL}"})
    verdict = judge(
        GATE, new=models["after"], base=models["before"], champion=models["champion"], opponent=opponent, **options
    )
    numbers = {stage: model_record(model) for stage, model in models.items()}
    return {"data": {"held_out_documents": 3}, **numbers, "verdict": verdict.as_dict()}


def page(**changes: Any) -> str:
    stages = ("before", "champion", "after")
    fields: dict[str, Any] = {
        "name": "poems",
        "description": EVIL,
        "evaluation": evaluation(2.0),
        "samples": [
            {"stage": stage, "prompt": EVIL, "seed": 5, "index": 1, "text": f"{stage} {EVIL}"} for stage in stages
        ],
        "lineage": {"recipe": EVIL, "config": {"training": {EVIL: EVIL}}},
        "log": [{"step": 10, "loss": 3.0}, {"step": 20, "loss": 2.0}, {"step": 20, "validation_loss": 2.5}],
    }
    return report_page(Page(**{**fields, **changes}))


def test_it_has_everything_and_every_text_is_escaped() -> None:
    reader = read(page())
    assert "script" not in reader.tags
    assert "\x1b" not in reader.text
    assert reader.text.count("alert('x')") == 1 + 1 + 3 * 2 + 1 + 2, "description, fleet, samples, recipe, config"
    for part in ("passed the gate", "2.000", "better than champion", "bits per byte", "share of repeated 4-grams"):
        assert part in reader.text
    for label in (
        "before training",
        "champion",
        "after training",
        "seed 5, draw 2",
        "validation",
        "held out documents: 3",
    ):
        assert label in reader.text


def test_nothing_is_asked_of_anybody() -> None:
    html = page()
    reader = read(html)
    links = [value for name, value in reader.attributes if name in ("src", "href", "xlink:href", "action", "srcset")]
    assert all(link.startswith("#") for link in links)
    assert "url(http" not in html
    assert "@import" not in html
    assert ("content", "default-src 'none'; style-src 'unsafe-inline'") in reader.attributes


def test_the_verdict_is_at_the_top() -> None:
    assert "failed the gate" in page(evaluation=evaluation(2.6))
    assert "failed the gate, published by force" in page(evaluation=evaluation(2.6, forced=True))
    assert '<span class="badge good">passed the gate' in page()


def test_numbers_that_are_not_finite_are_shown_as_missing() -> None:
    reader = read(page(evaluation=evaluation(math.nan)))
    assert "3 of 3 held-out documents have no finite likelihood" in reader.text
    assert "None" not in reader.text


def test_a_version_that_was_only_imported_has_a_page() -> None:
    empty = {"evaluation": {"measured": False}, "samples": [], "log": [], "lineage": {"recipe": None}}
    reader = read(page(**empty))
    assert "svg" not in reader.tags
    assert "Lineage" in reader.text


def test_the_curve_takes_its_colours_from_the_page_and_is_the_same_each_time() -> None:
    curve = Curve(training=[(1, 3.0), (2, math.nan), (3, 2.0)], validation=[])
    svg = draw_curve(curve)
    assert svg == draw_curve(curve)
    assert svg.startswith("<svg ")
    assert "var(--first)" in svg
    assert "#010203" not in svg
    assert "<metadata>" not in svg
    read(svg)


def test_the_curve_is_read_from_the_log() -> None:
    log = [{"step": 1, "loss": 3.0, "epoch": 0.1}, {"step": 2, "validation_loss": None}, {"train_runtime": 3.0}]
    curve = curve_of(log)
    assert curve.training == [(1.0, 3.0)]
    assert curve.validation[0][0] == 2.0
    assert math.isnan(curve.validation[0][1])


@pytest.mark.parametrize(
    ("rule", "text"),
    [("finite", "at most 0"), ("better than base", "below 0"), ("length", "1 to 9")],
)
def test_bounds_are_in_words(rule: str, text: str) -> None:
    html = page()
    row = html[html.index(f'<th scope="row">{rule}</th>') :]
    assert f'<td class="number">{text}</td>' in row[: row.index("</tr>")]
