"""Which version answers: following champions, refusing what is broken, coming back after a loss."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from rhapsode_contract.model_directory import Lease, ModelDirectory
from rhapsode_server.engine.engine import EngineStats
from rhapsode_server.engine.usage import Usage
from rhapsode_server.errors import (
    AliasNotFound,
    Draining,
    InvalidRequest,
    Loading,
    ModelNotFound,
    NothingPublished,
    Quarantined,
    Unavailable,
    VersionNotFound,
)
from rhapsode_server.models import quarantine as quarantine_module
from rhapsode_server.models.replica import Backoff
from rhapsode_server.workers.exits import ExitReason
from support.publishing import publish_model
from support.tiny_models import VOCABULARY_SIZE, tiny_model

from .conftest import Open, Workshop

TINY = tiny_model("gpt2")


def publish(root: Path, name: str = "tiny", spoil: Any = None) -> int:
    return publish_model(root, name, TINY, spoil=spoil)


def sample(metrics: Any, name: str, **labels: str) -> float:
    return metrics.registry.get_sample_value(name, labels) or 0.0


async def test_it_waits_for_the_first_version_and_then_serves_it(tmp_path: Path, open_registry: Open) -> None:
    async with open_registry() as registry:
        with pytest.raises(NothingPublished, match=f"no model is published in {tmp_path} yet"):
            registry.resolve("")
        publish(tmp_path)
        await registry.until(lambda: registry.states() == {1: "serving"})
        served = registry.resolve("")
        assert (served.model, served.version) == ("tiny", 1)
        assert served.limits.context_length == 128
        assert served.limits.vocabulary_size == VOCABULARY_SIZE
        assert served.defaults.eos_token_ids == (0,)
        assert registry.resolve("tiny", version=1) is served
        assert registry.resolve("tiny", alias="champion") is served
        [status] = registry.statuses()
        assert status == registry.status("tiny")
        assert status.is_serving
        assert (status.aliases, status.versions[0].dtype, status.versions[0].device) == (
            {"champion": 1},
            "float32",
            "cpu",
        )


async def test_with_several_models_a_request_names_one(tmp_path: Path, open_registry: Open) -> None:
    publish(tmp_path, "odes")
    publish(tmp_path, "songs")
    async with open_registry() as registry:
        await registry.until(lambda: registry.states("odes") == registry.states("songs") == {1: "serving"})
        with pytest.raises(InvalidRequest) as error:
            registry.resolve("")
        assert error.value.violations[0].field == "model"
        assert "odes, songs" in error.value.violations[0].description
        assert registry.resolve("songs").model == "songs"
    async with open_registry(default_model="songs") as registry:
        await registry.until(lambda: registry.states("songs") == {1: "serving"})
        assert registry.resolve("").model == "songs"


async def test_what_is_not_there_is_not_found(tmp_path: Path, open_registry: Open) -> None:
    publish(tmp_path)
    async with open_registry() as registry:
        await registry.until(lambda: registry.states() == {1: "serving"})
        with pytest.raises(ModelNotFound, match="no model 'epics'; there is tiny"):
            registry.resolve("epics")
        with pytest.raises(AliasNotFound, match="tiny has no alias 'blue'; it has champion"):
            registry.resolve("tiny", alias="blue")
        with pytest.raises(VersionNotFound, match="version 7 of tiny is not served here; served: 1"):
            registry.resolve("tiny", version=7)


async def test_a_new_champion_takes_over_and_the_old_one_ends_its_streams(
    tmp_path: Path, open_registry: Open, workshop: Workshop
) -> None:
    publish(tmp_path)
    async with open_registry() as registry:
        await registry.until(lambda: registry.states() == {1: "serving"})
        old = workshop.workers[0]
        old.idle.clear()
        workshop.hold = True
        publish(tmp_path)
        await registry.until(lambda: registry.states() == {1: "serving", 2: "loading"})
        assert registry.resolve("tiny").version == 1, "the old one serves while the new one loads"
        with pytest.raises(Loading, match="version 2 of tiny is loading"):
            registry.resolve("tiny", version=2)
        await workshop.made.get()
        (await workshop.made.get()).go.set()
        await registry.until(lambda: registry.states() == {1: "draining", 2: "serving"})
        assert registry.resolve("tiny").version == 2
        assert not old.stopped, "it still has a stream"
        with pytest.raises(Draining, match="version 1 of tiny is draining"):
            registry.resolve("tiny", version=1)
        old.idle.set()
        await registry.until(lambda: registry.states() == {2: "serving"})
        assert old.stopped


def set_champion(root: Path, version: int) -> None:
    folder = ModelDirectory(root).model("tiny")
    with Lease.acquire(folder, owner="test", ttl=60) as lease:
        folder.set_alias("champion", version, lease=lease, actor="test", reason="a test")


def truncate_weights(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])


async def test_a_damaged_version_is_quarantined_once_and_the_old_one_serves_on(
    tmp_path: Path, open_registry: Open, workshop: Workshop, caplog: pytest.LogCaptureFixture
) -> None:
    publish(tmp_path)
    async with open_registry() as registry:
        await registry.until(lambda: registry.states() == {1: "serving"})
        shutil.copytree(tmp_path / "tiny" / "1", tmp_path / "tiny" / "2")
        truncate_weights(tmp_path / "tiny" / "2")
        set_champion(tmp_path, 2)
        await registry.until(lambda: registry.states() == {1: "serving", 2: "quarantined"})
        assert registry.resolve("tiny").version == 1
        [_, refused] = registry.status("tiny").versions
        assert refused.reason.startswith("hash_mismatch: model.safetensors")
        await registry.look_again(5)
        assert sample(registry.metrics, "rhapsode_quarantines_total", model="tiny", reason="hash_mismatch") == 1
        assert len(workshop.workers) == 1
        shutil.copy(tmp_path / "tiny" / "1" / "model.safetensors", tmp_path / "tiny" / "2")
        await registry.until(lambda: registry.states() == {2: "serving"})


async def test_what_the_engine_refuses_is_quarantined_with_its_reason(
    tmp_path: Path, open_registry: Open, workshop: Workshop
) -> None:
    workshop.will_refuse("unsupported_architecture", "it goes its own way")
    publish(tmp_path)
    async with open_registry() as registry:
        await registry.until(lambda: registry.states() == {1: "quarantined"})
        with pytest.raises(Unavailable, match=r"is quarantined \(unsupported_architecture: it goes its own way\)"):
            registry.resolve("tiny")
        assert workshop.workers[0].stopped
        publish(tmp_path)
        await registry.until(lambda: registry.states() == {1: "quarantined", 2: "serving"})
        publish(tmp_path)
        await registry.until(lambda: registry.states() == {3: "serving"})


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("tokenizer.json", "{}", "load_failed: .*tokenizer.json"),
        ("generation_config.json", "[]", "load_failed: generation_config.json is not a JSON object"),
        ("generation_config.json", '{"top_k": "many"}', "load_failed: generation_config.json cannot be understood"),
        ("generation_config.json", '{"top_k": -1}', "load_failed: .*top_k: -1 is not from 0"),
        ("generation_config.json", '{"do_sample": true, "temperature": NaN}', "load_failed: .*temperature: nan is not"),
        ("generation_config.json", '{"top_p": 0}', "load_failed: .*top_p: 0 is not"),
        ("generation_config.json", '{"min_p": 2}', "load_failed: .*min_p: 2 is not from 0 to 1"),
        ("generation_config.json", '{"typical_p": 0}', "load_failed: .*typical_p: 0 is not"),
        ("generation_config.json", '{"repetition_penalty": 0}', "load_failed: .*repetition_penalty: 0 is not"),
        ("postprocess.json", '{"steps": []}', "load_failed: postprocess.json: schema_version: missing"),
        ("postprocess.json", '{"schema_version": 1, "steps": ["magic"]}', r"load_failed: .*steps\[0\]: no step"),
        ("postprocess.json", "no JSON", "load_failed: postprocess.json: not JSON"),
        ("chat_template.jinja", "{% if %}", "load_failed: the chat template cannot be read"),
        ("tokenizer_config.json", "[]", "load_failed: tokenizer_config.json is not a JSON object"),
        pytest.param("generation_config.json", "[" * 100_000, "load_failed: generation_config.json", id="deep"),
    ],
)
async def test_unreadable_files_are_a_named_reason(
    tmp_path: Path, open_registry: Open, file: str, content: str, reason: str
) -> None:
    publish(tmp_path, spoil=lambda folder: (folder / file).write_text(content))
    async with open_registry() as registry:
        await registry.until(lambda: registry.states() == {1: "quarantined"})
        with pytest.raises(Quarantined, match=reason) as caught:
            registry.resolve("tiny")
        assert str(tmp_path) not in str(caught.value), "callers learn the file's name, not where it lies"


async def test_defaults_come_from_the_version(tmp_path: Path, open_registry: Open) -> None:
    settings = {
        "do_sample": True,
        "temperature": 0.7,
        "top_k": 40,
        "top_p": 0.9,
        "min_p": 0.05,
        "typical_p": 0.95,
        "repetition_penalty": 1.2,
        "bos_token_id": 3,
        "eos_token_id": [4, 5],
    }
    publish(tmp_path, spoil=lambda folder: (folder / "generation_config.json").write_text(json.dumps(settings)))
    async with open_registry() as registry:
        await registry.until(lambda: registry.states() == {1: "serving"})
        defaults = registry.resolve("").defaults
        assert (defaults.temperature, defaults.top_k, defaults.top_p) == (0.7, 40, 0.9)
        assert (defaults.min_p, defaults.typical_p, defaults.repetition_penalty) == (0.05, 0.95, 1.2)
        assert (defaults.bos_token_id, defaults.eos_token_ids) == (3, (4, 5))


async def test_what_transformers_saves_is_understood(tmp_path: Path, open_registry: Open) -> None:
    """A temperature counts only where the version samples; what is null is unset."""
    settings = {"temperature": 0.7, "repetition_penalty": 1.2, "top_k": None, "min_p": None, "typical_p": 1.0}
    publish(tmp_path, spoil=lambda folder: (folder / "generation_config.json").write_text(json.dumps(settings)))
    async with open_registry() as registry:
        await registry.until(lambda: registry.states() == {1: "serving"})
        defaults = registry.resolve("").defaults
        assert (defaults.temperature, defaults.repetition_penalty) == (0.0, 1.2)
        assert (defaults.top_k, defaults.top_p, defaults.min_p, defaults.typical_p) == (0, 1.0, 0.0, 1.0)


async def test_text_pipeline_and_chat_template_come_with_the_version(tmp_path: Path, open_registry: Open) -> None:
    def spoil(folder: Path) -> None:
        (folder / "postprocess.json").write_text('{"schema_version": 1, "steps": ["whitespace"]}')
        (folder / "chat_template.jinja").write_text("{{ messages[0].content }}!")

    publish(tmp_path, "plain")
    publish(tmp_path, spoil=spoil)
    async with open_registry() as registry:
        await registry.until(lambda: registry.states() == registry.states("plain") == {1: "serving"})
        served = registry.resolve("tiny")
        assert served.postprocess.apply("a  b") == "a b"
        assert served.chat_template is not None
        assert served.chat_template.render([{"role": "user", "content": "Sing"}]) == "Sing!"
        assert registry.resolve("plain").postprocess.is_empty
        assert registry.resolve("plain").chat_template is None


async def test_a_lost_worker_comes_back(tmp_path: Path, open_registry: Open, workshop: Workshop) -> None:
    publish(tmp_path)
    async with open_registry() as registry:
        await registry.until(lambda: registry.states() == {1: "serving"})
        workshop.hold = True
        workshop.will_be_lost(5)
        workshop.workers[0].lose()
        await registry.until(lambda: registry.states() == {1: "loading"})
        with pytest.raises(Loading, match="version 1 of tiny is loading"):
            registry.resolve("tiny")
        await workshop.made.get()
        workshop.hold = False
        (await workshop.made.get()).go.set()
        await registry.until(lambda: registry.states() == {1: "serving"})
        assert registry.resolve("tiny").version == 1
        assert len(workshop.workers) == 7
        for gauge in ("requests_waiting", "requests_running", "kv_blocks_used"):
            assert sample(registry.metrics, f"rhapsode_{gauge}", model="tiny", version="1") == 0
        assert sample(registry.metrics, "rhapsode_worker_restarts_total", model="tiny", version="1") == 1


async def test_the_metrics_follow_the_workers(tmp_path: Path, open_registry: Open, workshop: Workshop) -> None:
    publish(tmp_path)
    async with open_registry(replicas=2) as registry:
        await registry.until(lambda: registry.states() == {1: "serving"})
        first, second = workshop.workers
        stats = EngineStats(waiting=0, running=0, blocks_used=3, blocks_total=50, batch_rows=0, batch_tokens=0)
        for worker in workshop.workers:
            worker.on_step(stats, 0.0)
            worker.on_usage(Usage(memory=700))
        first.num_waiting, second.num_waiting, second.num_running = 3, 4, 5

        def of_version(name: str) -> float | None:
            labels = {"model": "tiny", "version": "1"}
            return registry.metrics.registry.get_sample_value(f"rhapsode_{name}", labels)

        assert (of_version("requests_waiting"), of_version("requests_running")) == (7, 5)
        assert (of_version("kv_blocks"), of_version("worker_memory_bytes")) == (100, 1400)
        second.on_exit(ExitReason.STOPPED)
        assert (of_version("kv_blocks"), of_version("worker_memory_bytes")) == (50, 700)
        aliases = tmp_path / "tiny" / "aliases.json"
        decided_at = registry.metrics.registry.get_sample_value(
            "rhapsode_last_decision_timestamp_seconds", {"model": "tiny"}
        )
        assert decided_at == aliases.stat().st_mtime


async def test_a_version_whose_process_never_gets_ready_is_quarantined(
    tmp_path: Path, open_registry: Open, workshop: Workshop
) -> None:
    workshop.will_be_lost(3)
    publish(tmp_path)
    async with open_registry() as registry:
        await registry.until(lambda: registry.states() == {1: "quarantined"})
        assert registry.status("tiny").versions[0].reason.startswith("worker_crashed: the engine process ended 3 times")
        assert len(workshop.workers) == 3


async def test_a_vanished_directory_stops_nobody(tmp_path: Path, open_registry: Open) -> None:
    publish(tmp_path)
    async with open_registry() as registry:
        await registry.until(lambda: registry.states() == {1: "serving"})
        (tmp_path / "tiny").rename(tmp_path / ".hidden")
        await registry.look_again(3)
        assert registry.resolve("tiny").version == 1


async def test_foreign_things_in_the_directory_are_passed_over(tmp_path: Path, open_registry: Open) -> None:
    (tmp_path / "README").write_text("not a model")
    (tmp_path / "Not A Model" / "1").mkdir(parents=True)
    (tmp_path / "empty").mkdir()
    (tmp_path / "half" / "3").mkdir(parents=True)
    (tmp_path / "half" / "aliases.json").write_text('{"champion": 3}')
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "aliases.json").write_text('{"champi')
    publish(tmp_path)
    async with open_registry() as registry:
        await registry.until(lambda: registry.states() == {1: "serving"})
        assert [status.name for status in registry.statuses()] == ["tiny"]


async def test_stopping_while_a_version_loads(tmp_path: Path, open_registry: Open, workshop: Workshop) -> None:
    workshop.hold = True
    publish(tmp_path)
    async with open_registry() as registry:
        await workshop.made.get()
        assert registry.states() == {1: "loading"}
    assert workshop.workers[0].stopped


async def test_a_version_damaged_while_it_served_does_not_come_back(
    tmp_path: Path, open_registry: Open, workshop: Workshop
) -> None:
    publish(tmp_path)
    async with open_registry() as registry:
        await registry.until(lambda: registry.states() == {1: "serving"})
        truncate_weights(tmp_path / "tiny" / "1")
        workshop.workers[0].lose()
        await registry.until(lambda: registry.states() == {1: "quarantined"})
        assert registry.status("tiny").versions[0].reason.startswith("hash_mismatch")


async def test_a_passing_failure_is_tried_again(
    tmp_path: Path, open_registry: Open, workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quarantine_module, "RETRY_DELAY", 0.0)
    workshop.will_refuse("out_of_memory", "it does not fit")
    workshop.will_refuse("out_of_memory", "it does not fit")
    publish(tmp_path)
    async with open_registry() as registry:
        await registry.until(lambda: registry.states() == {1: "serving"})
        assert sample(registry.metrics, "rhapsode_quarantines_total", model="tiny", reason="out_of_memory") == 2


async def test_a_champion_that_is_taken_back_while_it_loads_never_answers(
    tmp_path: Path, open_registry: Open, workshop: Workshop
) -> None:
    publish(tmp_path)
    async with open_registry() as registry:
        await registry.until(lambda: registry.states() == {1: "serving"})
        await workshop.made.get()
        workshop.hold = True
        publish(tmp_path)
        second = await workshop.made.get()
        set_champion(tmp_path, 1)
        await registry.until(lambda: registry.models["tiny"].found.aliases["champion"] == 1)
        second.go.set()
        await registry.until(lambda: registry.states() == {1: "serving"})
        assert registry.resolve("tiny").version == 1
        assert second.stopped


async def test_a_long_stream_on_an_old_version_keeps_no_newer_one_waiting(
    tmp_path: Path, open_registry: Open, workshop: Workshop
) -> None:
    publish(tmp_path)
    async with open_registry() as registry:
        await registry.until(lambda: registry.states() == {1: "serving"})
        workshop.workers[0].idle.clear()
        publish(tmp_path)
        await registry.until(lambda: registry.states() == {1: "draining", 2: "serving"})
        publish(tmp_path)
        await registry.until(lambda: registry.states() == {1: "draining", 3: "serving"})
        assert registry.resolve("tiny").version == 3


async def test_a_worker_lost_while_it_drains_is_not_started_again(
    tmp_path: Path, open_registry: Open, workshop: Workshop
) -> None:
    publish(tmp_path)
    async with open_registry() as registry:
        await registry.until(lambda: registry.states() == {1: "serving"})
        old = workshop.workers[0]
        old.idle.clear()
        publish(tmp_path)
        await registry.until(lambda: registry.states() == {1: "draining", 2: "serving"})
        old.lose()
        old.idle.set()
        await registry.until(lambda: registry.states() == {2: "serving"})
        assert len(workshop.workers) == 2


async def test_a_version_retired_while_it_comes_back_ends(
    tmp_path: Path, open_registry: Open, workshop: Workshop
) -> None:
    publish(tmp_path)
    async with open_registry() as registry:
        await registry.until(lambda: registry.states() == {1: "serving"})
        workshop.hold = True
        workshop.workers[0].lose()
        await registry.until(lambda: len(workshop.workers) == 2)
        publish(tmp_path)
        await registry.until(lambda: len(workshop.workers) == 3)
        workshop.workers[2].go.set()
        await registry.until(lambda: registry.states() == {2: "serving"})
        assert workshop.workers[1].stopped
        assert len(workshop.workers) == 3


@pytest.mark.parametrize("failure", [RuntimeError("a bug"), RecursionError("deep")])
async def test_what_nobody_foresaw_quarantines_and_the_log_says_it(
    tmp_path: Path, open_registry: Open, workshop: Workshop, caplog: pytest.LogCaptureFixture, failure: Exception
) -> None:
    workshop.outcomes.append(failure)
    publish(tmp_path)
    async with open_registry() as registry:
        await registry.until(lambda: registry.states() == {1: "quarantined"})
        assert registry.status("tiny").versions[0].reason.startswith("unexpected_failure")
        assert "unexpected failure" in caplog.text


def test_pauses_grow_to_their_limit_and_no_further() -> None:
    backoff = Backoff(longest=30.0)
    pauses = [backoff.pause() for _ in range(2000)]
    assert pauses[0] == 0
    assert pauses[1:] == sorted(pauses[1:])
    assert pauses[-1] == 30


async def test_ids_that_the_tokenizer_does_not_have_are_no_defaults(tmp_path: Path, open_registry: Open) -> None:
    settings = json.dumps({"bos_token_id": 50256, "eos_token_id": [50256, 3, -1]})
    publish(tmp_path, spoil=lambda folder: (folder / "generation_config.json").write_text(settings))
    async with open_registry() as registry:
        await registry.until(lambda: registry.states() == {1: "serving"})
        defaults = registry.resolve("").defaults
        assert (defaults.bos_token_id, defaults.eos_token_ids) == (None, (3,))
