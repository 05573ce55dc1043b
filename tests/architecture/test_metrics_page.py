"""docs/metrics.md explains every series and every word in them; a running server is compared with it end to end."""

import re
from pathlib import Path

import pytest
from rhapsode_server.metrics import SWAP_RESULTS, Metrics
from rhapsode_server.metrics.vllm import FINISHED_REASONS
from rhapsode_server.rpc.counted import OUTCOME_LABELS
from support.series import PAGE, described_series, everything, label_names

DOCS = Path(__file__).parents[2] / "docs"


def section(title: str) -> str:
    return PAGE.partition(f"## {title}\n")[2].partition("\n## ")[0]


def test_it_describes_every_series_with_its_labels() -> None:
    metrics = Metrics(vllm_names=True)
    everything(metrics)
    assert label_names(metrics.registry.collect()) == {name: labels for name, (_, labels) in described_series().items()}


def test_it_explains_every_outcome() -> None:
    assert set(re.findall(r"^\| `(\w+)` \|", section("How calls end"), re.MULTILINE)) == {*OUTCOME_LABELS, "outcome"}


@pytest.mark.parametrize("word", [*FINISHED_REASONS, *SWAP_RESULTS])
def test_it_names_every_word(word: str) -> None:
    assert f"`{word}`" in section("Labels")


def test_it_explains_every_label() -> None:
    labels = {label for _, labels in described_series().values() for label in labels}
    explained = set(re.findall(r"^\| `(\w+)` \|", section("Labels"), re.MULTILINE))
    assert labels - explained <= {"python", "model_name", "engine", "finished_reason"}
    assert explained <= labels


def test_its_links_lead_somewhere() -> None:
    for file, anchor in re.findall(r"\]\(([\w.]*)#([^)]+)\)", PAGE):
        headings = re.findall(r"^#+ (.+)$", (DOCS / (file or "metrics.md")).read_text("utf-8"), re.MULTILINE)
        assert anchor in {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}, anchor
