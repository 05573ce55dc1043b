"""The harness with a tiny model and two callers: every token is accounted for, and the report is whole."""

import json
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from benchmarks.serving.closed import Cell
from benchmarks.serving.figures import Measured
from benchmarks.serving.limits import Limits, Load, Shape
from benchmarks.serving.micro import AttentionStep, DecodeStep, attention_steps, decode_steps
from benchmarks.serving.model import make_model, read_shape
from benchmarks.serving.processes import Host
from benchmarks.serving.profiles import CONTINUOUS, PROFILES, SERVER
from benchmarks.serving.recorder import Plan
from benchmarks.serving.report import as_json, as_markdown
from benchmarks.serving.run import Options, Results
from benchmarks.serving.sections import OpenLoop, PrefixReuse
from benchmarks.serving.systems import Kind, Setting, UnavailableError
from benchmarks.serving.systems.engine import Engine
from benchmarks.serving.systems.rhapsode import Server
from benchmarks.serving.systems.transformers import StaticBatches
from benchmarks.serving.workload import Request, Sizes, gpt2_tokenizer, make_requests, wikitext

SIZES = Sizes(prompt=(4, 24), output=(2, 8))
LIMITS = Limits(copy=1e10, read={"float32": 1e10, "int8": 2e10}, matmul={"float32": 1e11, "int8": 4e11})


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    folder = tmp_path_factory.mktemp("benchmark")
    make_model(folder, tiny=True)
    return Setting(
        folder=folder / "saved",
        models=folder / "models",
        device="cpu",
        precision="float32",
        threads=1,
        max_callers=2,
        server_flags=("--prefix-cache", "off"),
    )


@pytest.fixture(scope="module")
def requests() -> list[Request]:
    return make_requests(gpt2_tokenizer(), wikitext(None)[:20_000], 6, SIZES, seed=0)


@pytest.fixture(scope="module")
def server(setting: Setting) -> Iterator[Server]:
    server = Server(setting)
    yield server
    server.close()


def is_accounted_for(run: Measured, requests: list[Request]) -> None:
    assert run.num_tokens == sum(each.num_tokens for each in requests)
    assert sorted(run.num_prompt_tokens) == sorted(len(each.prompt_ids) for each in requests)
    assert len(run.first_token_seconds) == len(requests)
    assert len(run.gaps) <= run.num_tokens - len(requests)
    assert 0 < max(run.first_token_seconds) < run.seconds
    assert run.cost.cpu_seconds > 0
    assert run.cost.peak_bytes >= run.cost.largest_peak_bytes > 2**25


def test_through_grpc_every_token_counts(server: Server, requests: list[Request]):
    run = server.run(Plan(requests=tuple(requests), callers=2))
    is_accounted_for(run, requests)
    assert run.num_cached_tokens == [0] * len(requests)
    assert run.cost.client_cpu_seconds > 0
    assert len(server.processes()) == 2  # front-end and worker


def test_a_window_of_time_closes(server: Server, requests: list[Request]):
    run = server.run(Plan(requests=tuple(requests), callers=2, seconds=0.3))
    assert 0.3 <= run.seconds < 5
    assert run.num_tokens > 0


def test_arrivals_at_random_are_all_served(server: Server, requests: list[Request]):
    plan = Plan(requests=tuple(requests[:3]), arrivals=(0.0, 0.02, 0.04), seconds=0.1)
    run = server.run(plan)
    assert len(run.first_token_seconds) == 3
    assert run.seconds == pytest.approx(0.1, abs=0.5)


@pytest.mark.parametrize("system", [Engine, StaticBatches])
def test_in_process_every_token_counts(system: type, setting: Setting, requests: list[Request]):
    threads = torch.get_num_threads()
    is_accounted_for(system(setting).run(Plan(requests=tuple(requests), callers=2)), requests)
    torch.set_num_threads(threads)


def test_steps_of_the_engine(setting: Setting):
    [one, three] = decode_steps(setting, (1, 3), context=10, steps=2)
    assert (one.rows, three.rows, one.kernels) == (1, 3, None)
    assert 10 < one.context <= three.context < 30
    assert min(one.seconds, three.seconds) > 0
    [attention] = attention_steps(setting, 3, (10,), 2, read_shape(setting.folder.parent))
    assert min(attention.seconds, attention.row_by_row_seconds, attention.read_seconds) > 0


def test_what_cannot_run_says_why(setting: Setting):
    kind = Kind(name=SERVER, factory="rhapsode:Server", precision="float32", callers=(1,))
    with pytest.raises(UnavailableError, match="--max-sequences"):
        Host(kind, replace(setting, server_flags=("--max-sequences", "0")))


def a_run(seconds: float, num_tokens: int, cost: object) -> Measured:
    return Measured(
        seconds=seconds,
        num_tokens=num_tokens,
        first_token_seconds=[0.2, 0.1, 0.3],
        gaps=[0.01] * 99 + [0.05],
        cost=cost,
        num_prompt_tokens=[10],
        num_cached_tokens=[0],
    )


@pytest.fixture
def results(server: Server, requests: list[Request]) -> Results:
    """Two systems at 16 callers, ours three times as fast; every section."""
    cost = server.run(Plan(requests=tuple(requests[:1]))).cost
    profile, cells = PROFILES["cpu"], {}
    for name, tokens in ((SERVER, (150, 300, 450)), (CONTINUOUS, (100, 100, 100))):
        kind = next(kind for kind in profile.kinds if kind.title == f"{name} float32")
        cells[kind.title, 16] = Cell(kind, 16, [a_run(1.0, count, cost) for count in tokens])
    loop = OpenLoop(share=0.5, requests_per_second=2.0, capacity=300.0, measured=a_run(1.0, 150, cost))
    machine = {"processor": "a processor", "cores": 2, "threads": 2, "device": "cpu", "system": "Linux"}
    return Results(
        options=Options(),
        profile=profile,
        shape=Shape(body=10**6, head=10**6, layers=2, width=32),
        load=Load.of(requests),
        limits=LIMITS,
        machine=machine | {"packages": {"torch": "2"}, "load_average_at_start": 0.0, "minutes": 1.0},
        absent={"CTranslate2 int8": "not installed"},
        cells=cells,
        open_loops={f"{SERVER} float32": [loop]},
        prefix=PrefixReuse(preamble=512, cold_seconds=1.0, hit_seconds=0.1, hit_rate=0.9),
        steps={"float32": [DecodeStep(rows=16, context=128, seconds=0.01)]},
        attention=[AttentionStep(rows=16, context=100, seconds=0.005, row_by_row_seconds=0.02, read_seconds=0.004)],
    )


def test_the_report_is_whole(results: Results):
    found = json.loads(json.dumps(as_json(results)))
    [ours, theirs] = found["closed"]
    assert (ours["tokens_per_second"], ours["rounds"]) == (300, [150, 300, 450])
    assert (ours["over_continuous_batching"], theirs["over_continuous_batching"]) == (3, 1)
    assert (ours["first_token_p50"], ours["first_token_p99"]) == (0.2, 0.3)
    assert (ours["gap_p50"], ours["gap_p99"]) == (0.01, 0.01)
    assert ours["cpu_seconds_per_1000_tokens"] > 0
    goals = {goal["what"]: goal for goal in found["goals"]}
    assert goals[f"tokens/s of {SERVER} float32 over {CONTINUOUS} float32, 16 callers"]["is_met"] is True
    assert goals["decode attention over a read of its keys and values, 16 rows, context 100"]["reached"] == 1.25
    assert goals["tokens/s of rhapsode int8 over CTranslate2 int8, 16 callers"]["is_met"] is None


def test_the_tables_hold_every_row(results: Results):
    text = as_markdown(results)
    for title in (*(title for title, _ in results.cells), "- CTranslate2 int8: not installed"):
        assert title in text
    for block in text.split("\n\n"):
        if block.startswith("|"):
            assert len({row.count("|") for row in block.strip().split("\n")}) == 1, block
    assert "no CUDA device was at hand" in text


def test_a_step_cannot_beat_memory_nor_arithmetic():
    shape, load = Shape(body=10**6, head=10**6, layers=2, width=32), Load(context=100, prompt_tokens_per_token=1)
    kv_bytes = 100 * 2 * 2 * 32 * 4
    assert LIMITS.memory_seconds(shape, load, 1, "float32") == pytest.approx((8e6 + kv_bytes) / 1e10)
    assert LIMITS.matmul_seconds(shape, load, 1, "float32") == pytest.approx((2 * 3e6 + 4 * 100 * 64) / 1e11)
    assert LIMITS.step_seconds(shape, load, 1, "float32") == LIMITS.memory_seconds(shape, load, 1, "float32")
    assert LIMITS.step_seconds(shape, load, 64, "float32") == LIMITS.matmul_seconds(shape, load, 64, "float32")
