"""The pictures of docs/images: they stand alone in light and dark, and show what the code does."""

import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from rhapsode_server.engine.batch import BatchResult
from rhapsode_server.engine.block_pool import BlockPool
from rhapsode_server.engine.request import EngineRequest, SamplingParameters
from rhapsode_server.engine.scheduler import STEP_OVERHEAD, Scheduler

IMAGES = Path(__file__).parents[2] / "docs" / "images"
SVG = "{http://www.w3.org/2000/svg}"
# Of requests A to E in engine-batching.svg: the step in which each comes, its prompt, and how many tokens it asks for.
PROMPT_OF_A = tuple(range(100, 136))
REQUESTS = (
    (1, PROMPT_OF_A, 7),
    (1, tuple(range(200, 214)), 12),
    (3, tuple(range(1000, 1110)), 5),
    (5, tuple(range(300, 326)), 8),
    (9, (*PROMPT_OF_A[:32], 7, 8, 9, 10), 4),
)


@pytest.mark.parametrize("path", sorted(IMAGES.glob("*.svg")), ids=lambda path: path.stem)
def test_a_picture_stands_alone_in_light_and_dark(path: Path):
    text = path.read_text("utf-8")
    picture = ElementTree.fromstring(text)
    width, height = map(float, picture.attrib["viewBox"].split()[2:])
    assert not re.search(r"<script|<image|@import|url\(|https?://(?!www\.w3\.org/2000/svg)", text)
    assert "prefers-color-scheme: dark" in text
    assert picture.attrib["aria-label"]
    for each in (*picture.iter(f"{SVG}text"), *picture.iter(f"{SVG}rect")):
        assert 0 <= float(each.attrib["x"]) <= width
        assert 0 <= float(each.attrib["y"]) <= height


def test_every_picture_is_shown_on_a_page():
    pages = "".join(path.read_text("utf-8") for path in IMAGES.parent.rglob("*.md"))
    assert not [path.name for path in IMAGES.glob("*.svg") if f"images/{path.name}" not in pages]


def test_the_steps_drawn_are_those_of_the_scheduler():
    picture = ElementTree.parse(IMAGES / "engine-batching.svg")
    drawn = {
        name: [int(each.text) for each in picture.findall(f".//{SVG}g[@id='{name}']/{SVG}text")]
        for name in ("rows", "tokens")
    }
    batches = scheduled()
    assert drawn == {"rows": [rows for rows, _ in batches], "tokens": [tokens for _, tokens in batches]}


def scheduled() -> list[tuple[int, int]]:
    """Rows and tokens of each step, on a CPU with the server's own settings."""
    scheduler = Scheduler(
        pool=BlockPool(num_blocks=64, block_size=16),
        max_sequences=64,
        max_batch_tokens=512,
        step_overhead=STEP_OVERHEAD["cpu"],
        prefix_cache=True,
    )
    steps: list[tuple[int, int]] = []
    while scheduler.has_work or not steps:
        for number, (step, prompt, count) in enumerate(REQUESTS):
            if step == len(steps) + 1:
                scheduler.submit(
                    EngineRequest(
                        request_id=number, prompt_ids=prompt, max_new_tokens=count, sampling=SamplingParameters()
                    )
                )
        batch = scheduler.schedule()
        scheduler.update(batch, BatchResult(token_ids=[5] * sum(row.draw is not None for row in batch.rows)))
        steps.append((len(batch.rows), batch.num_tokens))
    return [step for step in steps if step[0]]


def test_the_sums_drawn_are_those_of_the_published_noise():
    """Seed 13, position 17, and the token ids that stand in the picture."""
    page = (IMAGES.parent / "sampling.md").read_text("utf-8")
    names: dict[str, Any] = {}
    exec(re.search(r"```python\n(.+?)```", page, re.DOTALL)[1], names)
    texts = [each.text for each in ElementTree.parse(IMAGES / "engine-sampling.svg").iter(f"{SVG}text")]
    assert "seed 13, position 17" in texts[-1]
    rows = re.findall(r"(\d+) \w+ (\S+) (\S+) (\S+)", " ".join(texts[texts.index("id") + 3 : -1]))
    assert len(rows) == 6
    for token, *figures in rows:
        logit, noise, total = map(float, figures)
        assert noise == pytest.approx(names["noise"](13, 17, int(token)), abs=0.006)
        assert total == pytest.approx(logit + noise, abs=0.011)
    assert max(rows, key=lambda row: float(row[3]))[0] == "40"
