"""docs/observability.md says what the log and the spans really hold."""

import re
from pathlib import Path

import pytest
from rhapsode.v1 import generation_pb2 as pb
from rhapsode_server.rpc.call import Call
from rhapsode_server.rpc.errors import BUG
from rhapsode_server.rpc.reception import log_fields
from rhapsode_server.rpc.transcript import Transcript
from rhapsode_server.workers.stream import TokenStream

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "observability.md").read_text("utf-8")


def section(title: str) -> str:
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert found
    return found[1]


def first_column(table: str) -> set[str]:
    return {name for row in re.findall(r"^\|([^|]+)\|", table, re.MULTILINE) for name in re.findall(r"`([^`]+)`", row)}


def finished_call() -> Call:
    """With everything that a call can have."""
    tokens = TokenStream(on_close=lambda: None, started_at=1.0, first_token_at=2.0, num_cached_tokens=3)
    call = Call(method="Generate", caller="poets", model="poems", version=3, tokens=tokens, transcript=Transcript())
    call.num_prompt_tokens, call.finish_reason = 3, "length"
    return call


def test_the_fields_of_a_call_are_explained() -> None:
    assert first_column(section("The line of a call")) == set(log_fields(finished_call(), BUG, peer="", error=""))


def test_the_attributes_of_spans_are_explained() -> None:
    tracing = pytest.importorskip("rhapsode_server.rpc.tracing", reason="pip install -e 'server[otel]'")
    sampled = {f"gen_ai.request.{name}" for name in tracing._SAMPLING}
    assert set(tracing._SAMPLING) <= set(pb.SamplingParameters.DESCRIPTOR.fields_by_name)
    found = {name for name, _ in tracing._attributes(finished_call(), BUG)}
    by_the_start = {"rpc.system.name", "rpc.method"}
    by_the_request = {"gen_ai.operation.name", "gen_ai.request.max_tokens", "gen_ai.response.time_to_first_chunk"}
    assert first_column(section("Traces")) == found | sampled | by_the_start | by_the_request


def test_its_links_lead_somewhere() -> None:
    headings = re.findall(r"^#+ (.+)$", PAGE, re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    assert set(re.findall(r"\]\(#([^)]+)\)", PAGE)) <= anchors
    assert all((DOCS / name).is_file() for name in re.findall(r"\]\((\w+\.md)\)", PAGE))
