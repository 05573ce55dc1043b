"""Metrics tell the truth: every call, completion and token that callers sent or saw is in them, whatever happened.

One story for all tests: a swap, cancelled calls, deadlines, full queues, wrong requests, and a worker that is killed
while it generates.
"""

import asyncio
import os
import shutil
import signal
import subprocess
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families
from rhapsode.v1 import generation_pb2 as pb
from rhapsode.v1.generation_pb2_grpc import GenerationServiceStub
from rhapsode.v1.models_pb2 import ListModelsRequest
from rhapsode.v1.models_pb2_grpc import ModelServiceStub
from rhapsode_server.rpc.counted import METHODS, OUTCOME_LABELS
from support.publishing import publish_tiny
from support.series import described_series, exported_name, label_names
from support.servers import ServerProcess, running_server
from support.traffic import Caller, asked, item

PLACES, QUEUE = 4, 2
FLAGS = (
    *("--threads", "1", "--standby", "off", "--vllm-metric-names", "on"),
    *("--max-sequences", str(PLACES), "--max-queued-requests", str(QUEUE)),
)
LONG = 1000
WITHOUT_ENGINE = 1
TEXT = "no star is alone, and no ship that ever sailed came home the same"

Sums = Counter[tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Scrape:
    """What a server exported."""

    text: str

    @classmethod
    def of(cls, server: ServerProcess) -> "Scrape":
        with urllib.request.urlopen(server.metrics_url, timeout=10) as response:
            return cls(response.read().decode())

    @property
    def families(self) -> list[Metric]:
        return list(text_string_to_metric_families(self.text))

    def sums(self, name: str, *labels: str) -> Sums:
        """Of the samples of this name, by the values of these labels; without those that are 0."""
        sums: Sums = Counter()
        for sample in (sample for family in self.families for sample in family.samples if sample.name == name):
            sums[tuple(sample.labels[label] for label in labels)] += int(sample.value)
        return +sums

    def total(self, name: str) -> int:
        return sum(self.sums(name).values())


@dataclass(frozen=True, slots=True)
class Story:
    """What callers did and what the server says of it: `quiet` after calls that all ran to their end, `end` at last."""

    caller: Caller
    quiet: Scrape
    quiet_caller: Caller
    end: Scrape


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    root = tmp_path_factory.mktemp("served")
    publish_tiny(root, "poems")
    with running_server(root, *FLAGS) as server:
        server.wait_serving("model/poems")
        yield asyncio.run(told(server, root))
        server.terminate()
        assert server.wait() == 0, server.output
        assert "Traceback" not in server.output


async def told(server: ServerProcess, root: Path) -> Story:
    before = set(server.worker_processes())
    async with grpc.aio.insecure_channel(server.address) as channel:
        quiet, caller = (Caller(GenerationServiceStub(channel)) for _ in range(2))
        await calls_that_end_well(quiet)
        await calls_that_are_wrong(quiet)
        after_quiet = await counted(server, quiet)
        publish_tiny(root, "poems", seed=1)
        caller.calls.update(quiet.calls)
        caller.completions.update(quiet.completions)
        caller.received, caller.prompt_tokens = quiet.received, quiet.prompt_tokens
        await caller.ask("ListModels", ModelServiceStub(channel).ListModels(ListModelsRequest()))
        await asyncio.to_thread(server.wait_log, "requests go to version 2")
        [worker] = set(server.worker_processes()) - before
        await calls_that_are_cancelled(caller)
        await calls_that_end_badly(server, caller, worker)
        await scraped(server, lambda books: books.total("rhapsode_worker_exits_total") == 1)
        return Story(caller, after_quiet, quiet, await counted(server, caller))


async def calls_that_end_well(caller: Caller) -> None:
    stub = caller.stub
    assert await asyncio.gather(*(caller.generate(asked(length)) for length in (1, 8, 20))) == ["ok"] * 3
    assert await asyncio.gather(*(caller.stream(asked(30, prompt=TEXT)) for _ in range(3))) == ["ok"] * 3
    assert await caller.batch([item(2, prompt=TEXT), item(3)]) == "ok"
    # Without a token to generate it never reaches the engine.
    await caller.ask("Generate", stub.Generate(asked(0)))
    caller.completions["ok"] += 1
    _, scores = await caller.ask("Score", stub.Score(pb.ScoreRequest(text=TEXT)))
    caller.prompt_tokens += len(scores.tokens)
    await caller.ask("Tokenize", stub.Tokenize(pb.TokenizeRequest(text=TEXT)))
    await caller.ask("Detokenize", stub.Detokenize(pb.DetokenizeRequest(token_ids=pb.TokenIds(ids=[1, 2]))))


async def calls_that_are_wrong(caller: Caller) -> None:
    """Also in ways that would make new series if callers could."""
    bad = pb.SamplingParameters(top_p=2)
    assert await caller.generate(pb.GenerateRequest(prompt="the sea", sampling=bad)) == "invalid"
    assert await caller.generate(asked(model='odes", version="7')) == "invalid"
    assert await caller.stream(asked(version=77)) == "invalid"
    assert await caller.stream(asked(alias="nobody's")) == "invalid"
    metadata = (("x-request-id", "a new one"), ("x-traffic-key", "a new one"))
    assert await caller.generate(asked(request_id="mine"), metadata=metadata) == "ok"
    assert await caller.batch([item(2, model="odes"), item(1)]) == "ok"
    assert await caller.batch([]) == "invalid"
    await caller.ask("Score", caller.stub.Score(pb.ScoreRequest(text="")))


async def calls_that_are_cancelled(caller: Caller) -> None:
    ended = await asyncio.gather(
        caller.stream(asked(LONG), cancel_after=1),
        caller.stream(asked(LONG), cancel_after=3),
        caller.batch([item(1, max_new_tokens=1), item(9, max_new_tokens=LONG)], cancel_after=1),
    )
    assert ended == ["cancelled"] * 3


async def calls_that_end_badly(server: ServerProcess, caller: Caller, worker: int) -> None:
    """While the worker is stopped nothing moves: what is sent waits, and the queue fills up. At last it is killed."""
    os.kill(worker, signal.SIGSTOP)
    ended = await asyncio.gather(caller.generate(asked(), timeout=1), caller.stream(asked(), timeout=1))
    assert ended == ["deadline"] * 2
    begun = asyncio.Semaphore(0)
    streams = [asyncio.create_task(caller.stream(asked(LONG), on_delta=begun.release)) for _ in range(PLACES + QUEUE)]
    await scraped(server, lambda books: books.total("rhapsode_requests_waiting") == PLACES + QUEUE)
    assert await caller.generate(asked()) == "overloaded"
    os.kill(worker, signal.SIGCONT)
    for _ in range(PLACES):
        await begun.acquire()
    os.kill(worker, signal.SIGKILL)
    assert await asyncio.gather(*streams) == ["unavailable"] * (PLACES + QUEUE)


async def counted(server: ServerProcess, caller: Caller) -> Scrape:
    """Once all calls are counted: those that were cancelled end after their caller has gone."""
    return await scraped(server, lambda books: books.total("rhapsode_calls_total") >= caller.calls.total())


async def scraped(server: ServerProcess, holds: Callable[[Scrape], bool]) -> Scrape:
    """The books, as soon as this holds of them."""
    deadline = time.monotonic() + 20
    while not holds(books := Scrape.of(server)):
        assert time.monotonic() < deadline, books.text
        await asyncio.sleep(0.02)
    return books


def test_every_call_is_counted_once_with_its_end(story: Story) -> None:
    assert story.end.sums("rhapsode_calls_total", "method", "outcome") == story.caller.calls
    ends = {outcome for _, outcome in story.caller.calls}
    assert ends == {"ok", "cancelled", "deadline", "invalid", "overloaded", "unavailable"}


def test_every_completion_is_counted_once_with_its_end(story: Story) -> None:
    ends = {(outcome,): count for outcome, count in story.caller.completions.items() if count}
    assert story.end.sums("rhapsode_requests_total", "outcome") == ends


def test_completions_count_to_their_version_and_those_of_none_to_none(story: Story) -> None:
    requests = story.end.sums("rhapsode_requests_total", "version", "outcome")
    assert {outcome for version, outcome in requests if version == ""} == {"invalid", "cancelled"}
    assert requests["1", "ok"] == story.quiet_caller.completions["ok"]
    assert requests["2", "unavailable"] == PLACES + QUEUE


def test_every_completion_that_reached_an_engine_has_its_time(story: Story) -> None:
    ends, books = story.caller.completions, story.end
    submitted = ends["ok"] - WITHOUT_ENGINE + ends["deadline"] + ends["unavailable"]
    timed = books.total("rhapsode_request_duration_seconds_count")
    assert submitted < timed <= submitted + ends["cancelled"]
    assert books.total("rhapsode_time_to_first_token_seconds_count") <= timed


def test_every_token_of_calls_that_ran_to_their_end(story: Story) -> None:
    books, caller = story.quiet, story.quiet_caller
    assert books.total("rhapsode_generated_tokens_total") == caller.received > 100
    assert books.total("rhapsode_prompt_tokens_total") == caller.prompt_tokens
    # Nothing follows the last token of a completion, nor that of a window of Score.
    num_lasts = caller.completions["ok"] - WITHOUT_ENGINE + caller.calls["Score", "ok"]
    computed = caller.prompt_tokens - books.total("rhapsode_cached_tokens_total") + caller.received - num_lasts
    assert books.total("rhapsode_batch_tokens_sum") == computed
    gaps = caller.received - (caller.completions["ok"] - WITHOUT_ENGINE)
    assert books.total("rhapsode_inter_token_latency_seconds_count") == gaps


def test_tokens_of_calls_that_were_cut_off(story: Story) -> None:
    generated = story.end.total("rhapsode_generated_tokens_total")
    assert story.quiet_caller.received < story.caller.received <= generated


def test_the_lost_worker_and_the_swap(story: Story) -> None:
    # There, and back when the new version's worker is killed during its probation.
    assert story.end.sums("rhapsode_swaps_total", "result") == {("moved",): 2, ("rolled_back",): 1}
    assert story.end.sums("rhapsode_worker_exits_total", "version", "reason") == {("2", "killed"): 1}
    assert story.end.sums("rhapsode_kv_blocks", "version").keys() == {("1",)}, "the killed engine has none"
    [(version, memory)] = story.end.sums("rhapsode_worker_memory_bytes", "version").items()
    assert version == ("1",)
    assert memory > 50 << 20


def test_callers_bring_no_label_into_being(story: Story) -> None:
    allowed = {
        "model": {"", "poems"},
        "version": {"", "1", "2"},
        "method": set(METHODS),
        "outcome": set(OUTCOME_LABELS),
        "finish_reason": {"", "length", "expired"},
    }
    for sample in (sample for family in story.end.families for sample in family.samples):
        if sample.name.startswith("rhapsode_") and sample.name != "rhapsode_build_info":
            for label, value in sample.labels.items():
                assert value in allowed.get(label, {value}), sample


def test_the_page_describes_exactly_what_the_server_exports(story: Story) -> None:
    page = described_series()
    exported = {exported_name(family): family.type for family in story.end.families}
    assert {name: kind for name, (kind, _) in page.items()} == exported
    assert len(page) > 45
    for name, labels in label_names(story.end.families).items():
        assert labels == page[name][1], name


@pytest.mark.skipif(not shutil.which("promtool"), reason="needs promtool: apt-get install prometheus")
def test_prometheus_finds_nothing_to_object_to(story: Story) -> None:
    ours = "".join(line for line in story.end.text.splitlines(keepends=True) if "vllm:" not in line)
    done = subprocess.run(["promtool", "check", "metrics"], input=ours, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
