"""docs/operations.md explains every word that the server shows to operators."""

import re
from pathlib import Path
from types import ModuleType
from typing import get_args

import pytest
from rhapsode_contract.model_directory import errors
from rhapsode_server.engine import refusal
from rhapsode_server.metrics import SWAP_RESULTS, Metrics
from rhapsode_server.models import probation, replica
from rhapsode_server.models.served import VersionState
from rhapsode_server.workers.exits import ExitReason

PAGE = (Path(__file__).parents[2] / "docs" / "operations.md").read_text("utf-8")
LIFECYCLE_METRICS = (
    "rhapsode_version_state",
    "rhapsode_quarantines_total",
    "rhapsode_swaps_total",
    "rhapsode_swap_seconds",
    "rhapsode_traffic_weight",
    "rhapsode_traffic_override",
    "rhapsode_worker_exits_total",
    "rhapsode_standby_ready",
)


def reasons_in(module: ModuleType) -> set[str]:
    names = (name for name in vars(module) if name.isupper() and not name.startswith("_"))
    return {value for name in names if isinstance(value := getattr(module, name), str)}


REASONS = set(get_args(errors.Reason)) | reasons_in(refusal) | reasons_in(probation) | reasons_in(replica)


def section(title: str) -> str:
    """The text below a heading, up to the next of its rank or a higher one."""
    found = re.search(rf"^(#+) {re.escape(title)}\n(.*?)(?=^#{{1,3}} |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert found, f"docs/operations.md has no heading {title!r}"
    return found[2]


def test_the_reasons_are_found() -> None:
    assert {"hash_mismatch", "out_of_memory", "latency", "unreadable"} <= REASONS
    assert len(REASONS) >= 16


@pytest.mark.parametrize("reason", sorted(REASONS))
def test_every_reason_says_what_it_means_and_what_to_do(reason: str) -> None:
    assert f"[`{reason}`](#{reason})" in section("Quarantine")
    text = section(f"`{reason}`")
    assert all(part in text for part in ("*Means*: ", "*The server* ", "*Do*: "))


def test_it_explains_nothing_that_is_not_there() -> None:
    assert set(re.findall(r"^### `(\w+)`$", PAGE, re.MULTILINE)) == REASONS


@pytest.mark.parametrize("word", [*(state.value for state in VersionState), *ExitReason, *SWAP_RESULTS[1:2]])
def test_states_and_exits_are_explained(word: str) -> None:
    assert f"`{word}`" in PAGE or f'"{word}"' in PAGE


def test_the_metrics_exist_and_are_named() -> None:
    metrics = Metrics()
    known = {family.name for family in metrics.registry.collect()}
    for name in LIFECYCLE_METRICS:
        assert name.removesuffix("_total") in known
        assert name in PAGE
    for name in re.findall(r"rhapsode_\w+", PAGE):
        assert re.sub(r"_(total|bucket|count|sum)$", "", name) in known, f"{name} is no metric"


def test_its_links_lead_somewhere() -> None:
    headings = re.findall(r"^#+ (.+)$", PAGE, re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    assert set(re.findall(r"\]\(#([^)]+)\)", PAGE)) <= anchors
