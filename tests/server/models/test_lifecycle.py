"""What serves while versions come and go: swaps, probation, rollback, traffic, operators, replicas."""

import asyncio
import json
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
from rhapsode_contract.model_directory import Lease, ModelDirectory
from rhapsode_server.engine.engine import EngineStats
from rhapsode_server.errors import Loading, NotPossible, VersionNotFound
from rhapsode_server.models import quarantine as quarantine_module
from rhapsode_server.models import registry as registry_module
from rhapsode_server.models.served import TrafficSource, Trouble
from rhapsode_server.workers import launcher as launcher_module
from rhapsode_server.workers.exits import ExitReason
from support.publishing import publish_model
from support.tiny_models import tiny_model

from .conftest import Open, Watched, Workshop

TINY = tiny_model("gpt2")
HOUR = 3600.0


def publish(root: Path, name: str = "tiny") -> int:
    return publish_model(root, name, TINY)


def sample(registry: Watched, name: str, **labels: str) -> float:
    return registry.metrics.registry.get_sample_value(name, labels) or 0.0


def decide(root: Path, **aliases: int) -> None:
    folder = ModelDirectory(root).model("tiny")
    with Lease.acquire(folder, owner="test", ttl=60) as lease:
        for alias, version in aliases.items():
            folder.set_alias(alias, version, lease=lease, actor="test", reason="a test")


def unpin(root: Path) -> None:
    folder = ModelDirectory(root).model("tiny")
    with Lease.acquire(folder, owner="test", ttl=60) as lease:
        folder.drop_alias("pinned", lease=lease, actor="test", reason="a test")


def split(root: Path, weights: dict[int, int]) -> None:
    folder = ModelDirectory(root).model("tiny")
    with Lease.acquire(folder, owner="test", ttl=60) as lease:
        folder.set_traffic(weights, lease=lease, actor="test", reason="a test")


async def swapped(root: Path, registry: Watched) -> None:
    """Version 2 serves, version 1 is kept for a rollback."""
    publish(root)
    await registry.until(lambda: registry.states() == {1: "serving"})
    publish(root)
    await registry.until(lambda: registry.states() == {1: "ready", 2: "serving"})


async def test_the_version_before_stays_warm_and_answers_those_who_name_it(tmp_path: Path, open_registry: Open) -> None:
    async with open_registry(probation=600) as registry:
        await swapped(tmp_path, registry)
        assert registry.resolve("tiny").version == 2
        assert registry.resolve("tiny", version=1).version == 1
        assert registry.resolve("tiny", alias="previous").version == 1
        await registry.look_again(3)
        assert registry.states() == {1: "ready", 2: "serving"}
        assert sample(registry, "rhapsode_swaps_total", model="tiny", result="moved") == 1


async def test_it_ends_with_the_probation(tmp_path: Path, open_registry: Open) -> None:
    async with open_registry(probation=0.2) as registry:
        await swapped(tmp_path, registry)
        await registry.until(lambda: registry.states() == {2: "serving"})


async def test_a_rollback_of_the_fleet_needs_no_loading(
    tmp_path: Path, open_registry: Open, workshop: Workshop
) -> None:
    async with open_registry(probation=600) as registry:
        await swapped(tmp_path, registry)
        seen: list[bool] = []
        model = registry.models["tiny"]
        told = model.versions[1].on_change
        for version in model.versions.values():
            version.on_change = lambda: (seen.append(model.status.is_serving), told())[1]
        decide(tmp_path, champion=1)
        await registry.until(lambda: registry.states() == {1: "serving", 2: "ready"})
        assert registry.resolve("tiny").version == 1
        assert all(seen), "at no moment is nobody serving"
        assert len(seen) == 2
        stats = EngineStats(waiting=0, running=1, blocks_used=1, blocks_total=9, batch_rows=1, batch_tokens=1)
        workshop.workers[0].on_step(stats, 0.001)
        assert sample(registry, "rhapsode_swap_seconds_count", model="tiny", start="warm") == 1
        assert len(workshop.workers) == 2


async def test_a_crash_in_probation_is_rolled_back(tmp_path: Path, open_registry: Open, workshop: Workshop) -> None:
    feedback = tmp_path / "feedback"
    async with open_registry(probation=600, feedback_dir=feedback) as registry:
        await swapped(tmp_path, registry)
        workshop.workers[1].lose(ExitReason.HUNG)
        await registry.until(lambda: registry.states() == {1: "serving", 2: "quarantined"})
        status = registry.status("tiny")
        assert status.versions[1].reason.startswith("worker_crashed: ")
        assert status.source is TrafficSource.FALLBACK
        assert sample(registry, "rhapsode_swaps_total", model="tiny", result="rolled_back") == 1
        await registry.look_again(3)
        assert registry.states() == {1: "serving", 2: "quarantined"}, "it is not tried again"
    [verdict] = [json.loads(file.read_text()) for file in (feedback / "tiny").glob("2.*.json")]
    assert verdict["verdict"] == "rolled_back"
    assert verdict["reason"].startswith("worker_crashed")
    [verdict] = [json.loads(file.read_text()) for file in (feedback / "tiny").glob("1.*.json")]
    assert verdict["verdict"] == "serving"


async def test_a_worker_that_hung_and_was_not_replaced_in_time_is_trouble(
    tmp_path: Path, open_registry: Open, workshop: Workshop
) -> None:
    publish(tmp_path)
    async with open_registry(load_timeout=0.1) as registry:
        await registry.until(lambda: registry.states() == {1: "serving"})
        workshop.hold = True
        workshop.workers[0].lose(ExitReason.HUNG)
        assert registry.trouble == Trouble(), "it has its time"
        assert registry.states() == {1: "loading"}
        await registry.ask_until(lambda: registry.trouble == Trouble(hung_devices=("auto",)))
        workshop.workers[1].go.set()
        await registry.until(lambda: registry.states() == {1: "serving"})
        assert registry.trouble == Trouble()


async def test_a_worker_that_crashed_is_no_trouble(tmp_path: Path, open_registry: Open, workshop: Workshop) -> None:
    publish(tmp_path)
    async with open_registry(load_timeout=0.001) as registry:
        await registry.until(lambda: registry.states() == {1: "serving"})
        workshop.hold = True
        workshop.workers[0].lose(ExitReason.CRASHED)
        await registry.look_again(2)
        assert registry.trouble == Trouble(), "another process would crash as well"


async def test_a_directory_that_cannot_be_read_is_trouble(tmp_path: Path, open_registry: Open) -> None:
    async with open_registry(models=tmp_path / "away") as registry:
        await registry.ask_until(lambda: "away cannot be read" in registry.trouble.directory)
        (tmp_path / "away").mkdir()
        await registry.ask_until(lambda: registry.trouble == Trouble())


@pytest.mark.parametrize(("outcome", "reason"), [("not_finite", "non_finite_logits"), ("error", "error_rate")])
async def test_failing_requests_in_probation_are_rolled_back(
    tmp_path: Path, open_registry: Open, workshop: Workshop, outcome: str, reason: str
) -> None:
    async with open_registry(probation=600) as registry:
        await swapped(tmp_path, registry)
        stream_open = workshop.workers[1].idle
        stream_open.clear()
        served = registry.resolve("tiny")
        for _ in range(5):
            served.note_end(outcome)
        await registry.until(lambda: registry.states() == {1: "serving", 2: "quarantined"})
        assert registry.status("tiny").versions[1].reason.startswith(reason)
        await registry.look_again(2)
        assert not workshop.workers[1].stopped, "its streams end"
        stream_open.set()
        await registry.until(lambda: workshop.workers[1].stopped)


async def test_slow_steps_in_probation_are_rolled_back(tmp_path: Path, open_registry: Open, workshop: Workshop) -> None:
    stats = EngineStats(waiting=0, running=1, blocks_used=1, blocks_total=9, batch_rows=1, batch_tokens=1)
    async with open_registry(probation=600) as registry:
        publish(tmp_path)
        await registry.until(lambda: registry.states() == {1: "serving"})
        for _ in range(300):
            workshop.workers[0].on_step(stats, 0.001)
        publish(tmp_path)
        await registry.until(lambda: registry.states() == {1: "ready", 2: "serving"})
        for _ in range(300):
            workshop.workers[1].on_step(stats, 0.01)
        await registry.until(lambda: registry.states() == {1: "serving", 2: "quarantined"})
        assert registry.status("tiny").versions[1].reason.startswith("latency")
        assert sample(registry, "rhapsode_swap_seconds_count", model="tiny", start="cold") == 1


async def test_after_its_probation_a_crash_is_only_a_restart(
    tmp_path: Path, open_registry: Open, workshop: Workshop
) -> None:
    async with open_registry(probation=0.1) as registry:
        await swapped(tmp_path, registry)
        await registry.until(lambda: registry.states() == {2: "serving"})
        workshop.workers[1].lose()
        await registry.ask_until(lambda: len(workshop.workers) == 3 and registry.states()[2] == "serving")


async def test_a_rolled_back_version_stays_out_after_a_restart_of_the_server(
    tmp_path: Path, open_registry: Open, workshop: Workshop
) -> None:
    models, state = tmp_path, tmp_path / "state"
    async with open_registry(probation=600, state_dir=state) as registry:
        await swapped(models, registry)
        workshop.workers[1].lose()
        await registry.until(lambda: registry.states() == {1: "serving", 2: "quarantined"})
    async with open_registry(probation=600, state_dir=state) as registry:
        await registry.until(lambda: registry.states() == {1: "serving", 2: "quarantined"})
        assert registry.status("tiny").source is TrafficSource.FALLBACK
        decide(models, champion=1)
        await registry.until(lambda: registry.status("tiny").source is TrafficSource.CHAMPION)
        decide(models, champion=2)
        await registry.until(lambda: registry.states() == {1: "ready", 2: "serving"})


async def test_a_champion_that_cannot_be_had_leaves_the_previous_one(tmp_path: Path, open_registry: Open) -> None:
    publish(tmp_path)
    publish(tmp_path)
    weights = tmp_path / "tiny" / "2" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    async with open_registry() as registry:
        await registry.until(lambda: registry.states() == {1: "serving", 2: "quarantined"})
        assert registry.resolve("tiny").version == 1
        shutil.copy(tmp_path / "tiny" / "1" / "model.safetensors", weights)
        await registry.until(lambda: registry.states() == {2: "serving"})


async def test_weights_in_the_directory_split_the_traffic(tmp_path: Path, open_registry: Open) -> None:
    publish(tmp_path)
    publish(tmp_path)
    publish(tmp_path)
    split(tmp_path, {1: 9, 2: 1, 3: 0})
    async with open_registry() as registry:
        await registry.until(lambda: registry.states() == {1: "serving", 2: "serving", 3: "ready"})
        answers = [registry.resolve("tiny", key=f"caller {number}").version for number in range(500)]
        assert 20 < answers.count(2) < 90
        assert answers.count(3) == 0
        assert answers == [registry.resolve("tiny", key=f"caller {number}").version for number in range(500)]
        status = registry.status("tiny")
        assert (status.traffic, status.source) == ({1: 9, 2: 1, 3: 0}, TrafficSource.WEIGHTS)
        assert sample(registry, "rhapsode_traffic_weight", model="tiny", version="1") == 9
        split(tmp_path, {})
        await registry.until(lambda: registry.states() == {3: "serving"})


async def test_a_pin_holds_while_champions_come(tmp_path: Path, open_registry: Open) -> None:
    publish(tmp_path)
    decide(tmp_path, pinned=1)
    async with open_registry() as registry:
        await registry.until(lambda: registry.states() == {1: "serving"})
        publish(tmp_path)
        await registry.look_again(3)
        assert registry.states() == {1: "serving"}
        assert registry.status("tiny").source is TrafficSource.PINNED
        unpin(tmp_path)
        await registry.until(lambda: registry.states() == {2: "serving"})


async def test_an_operator_decides_for_this_server_until_the_fleet_decides_anew(
    tmp_path: Path, open_registry: Open
) -> None:
    async with open_registry(probation=600) as registry:
        await swapped(tmp_path, registry)
        await registry.rollback("tiny", ttl=HOUR, reason="it rhymes badly")
        assert registry.resolve("tiny").version == 1, "at once"
        status = registry.status("tiny")
        assert status.override is not None
        assert (status.source, status.override.reason) == (TrafficSource.OVERRIDE, "it rhymes badly")
        assert sample(registry, "rhapsode_traffic_override", model="tiny") == 1
        publish(tmp_path)
        await registry.until(lambda: registry.resolve("tiny").version == 3)
        assert registry.status("tiny").override is None
        assert sample(registry, "rhapsode_traffic_override", model="tiny") == 0


async def test_what_holds_outlives_the_fleets_decisions_and_a_restart(tmp_path: Path, open_registry: Open) -> None:
    publish(tmp_path)
    state = tmp_path / "state"
    async with open_registry(state_dir=state) as registry:
        await registry.until(lambda: registry.states() == {1: "serving"})
        await registry.set_traffic("tiny", {1: 1}, ttl=HOUR, reason="", holds=True)
        publish(tmp_path)
        await registry.look_again(3)
        assert registry.states() == {1: "serving"}
    async with open_registry(state_dir=state) as registry:
        await registry.until(lambda: registry.states() == {1: "serving"})
        await registry.clear_traffic("tiny")
        await registry.until(lambda: registry.states() == {2: "serving"})


async def test_an_override_expires(tmp_path: Path, open_registry: Open) -> None:
    publish(tmp_path)
    publish(tmp_path)
    async with open_registry() as registry:
        await registry.until(lambda: registry.states() == {2: "serving"})
        await registry.set_traffic("tiny", {1: 1}, ttl=0.5, reason="", holds=True)
        await registry.until(lambda: registry.resolve("tiny").version == 1)
        await registry.until(lambda: registry.states() == {2: "serving"})


async def test_a_version_is_loaded_and_unloaded_by_hand(tmp_path: Path, open_registry: Open) -> None:
    publish(tmp_path)
    publish(tmp_path)
    async with open_registry() as registry:
        await registry.until(lambda: registry.states() == {2: "serving"})
        await registry.load_version("tiny", 1, ttl=HOUR)
        assert registry.states() == {1: "ready", 2: "serving"}
        assert registry.resolve("tiny", version=1).version == 1
        await registry.look_again(2)
        assert registry.states() == {1: "ready", 2: "serving"}
        with pytest.raises(NotPossible, match="version 2 of tiny has traffic"):
            await registry.unload_version("tiny", 2)
        await registry.unload_version("tiny", 1)
        await registry.until(lambda: registry.states() == {2: "serving"})
        with pytest.raises(VersionNotFound, match="is not loaded"):
            await registry.unload_version("tiny", 1)
        with pytest.raises(VersionNotFound, match="no whole version 9 at the last look; it had 1, 2"):
            await registry.load_version("tiny", 9, ttl=HOUR)


async def test_loading_by_hand_tries_a_quarantined_version_again(
    tmp_path: Path, open_registry: Open, workshop: Workshop
) -> None:
    publish(tmp_path)
    async with open_registry() as registry:
        await registry.until(lambda: registry.states() == {1: "serving"})
        workshop.will_refuse("canary_off", "far off")
        workshop.will_refuse("canary_off", "far off")
        publish(tmp_path)
        await registry.until(lambda: registry.states() == {1: "serving", 2: "quarantined"})
        with pytest.raises(NotPossible, match=r"quarantined \(canary_off: far off\); to try it again, load it"):
            await registry.set_traffic("tiny", {2: 1}, ttl=HOUR, reason="", holds=True)
        with pytest.raises(NotPossible, match=r"quarantined \(canary_off: far off\)"):
            await registry.load_version("tiny", 2, ttl=HOUR)
        with pytest.raises(NotPossible, match=r"is on version 1 \(100%\) and not on what was decided"):
            await registry.rollback("tiny", ttl=HOUR, reason="")
        await registry.load_version("tiny", 2, ttl=HOUR)
        await registry.until(lambda: registry.states() == {2: "serving"})


async def test_what_cannot_be_stored_changes_nothing(tmp_path: Path, open_registry: Open) -> None:
    publish(tmp_path)
    publish(tmp_path)
    (tmp_path / "file").write_text("a file where a folder should be")
    async with open_registry(state_dir=tmp_path / "file" / "state") as registry:
        await registry.until(lambda: registry.states() == {2: "serving"})
        with pytest.raises(NotPossible, match="cannot be stored"):
            await registry.set_traffic("tiny", {1: 1}, ttl=HOUR, reason="", holds=True)
        await registry.look_again(2)
        assert registry.states() == {2: "serving"}


async def test_what_is_kept_for_a_rollback_makes_room(
    tmp_path: Path, open_registry: Open, workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quarantine_module, "RETRY_DELAY", HOUR)
    async with open_registry(probation=600) as registry:
        await swapped(tmp_path, registry)
        workshop.will_refuse("out_of_memory", "it needs 2 GiB, 1 GiB are free")
        publish(tmp_path)
        await registry.until(lambda: registry.states() == {2: "ready", 3: "serving"})
        assert workshop.workers[0].stopped
        assert sample(registry, "rhapsode_quarantines_total", model="tiny", reason="out_of_memory") == 0


async def test_a_draining_version_that_is_wanted_again_goes_on(
    tmp_path: Path, open_registry: Open, workshop: Workshop
) -> None:
    async with open_registry() as registry:
        publish(tmp_path)
        await registry.until(lambda: registry.states() == {1: "serving"})
        workshop.workers[0].idle.clear()
        publish(tmp_path)
        await registry.until(lambda: registry.states() == {1: "draining", 2: "serving"})
        decide(tmp_path, champion=1)
        await registry.until(lambda: registry.states() == {1: "serving"})
        assert len(workshop.workers) == 2
        assert not workshop.workers[0].stopped
        workshop.workers[0].idle.set()
        await registry.look_again(2)
        assert registry.resolve("tiny").version == 1


async def test_requests_go_to_the_replica_with_the_least_work(
    tmp_path: Path, open_registry: Open, workshop: Workshop
) -> None:
    publish(tmp_path)
    async with open_registry(replicas=3, devices=("cpu:1", "cpu:2", "cpu:3")) as registry:
        await registry.until(lambda: registry.states() == {1: "serving"})
        assert [worker.options.threads for worker in workshop.workers] == [1, 2, 3]
        for worker, load in zip(workshop.workers, (5, 1, 3), strict=True):
            worker.load = load
        engine = registry.resolve("tiny").engine
        engine.submit(prompt_ids=(1,), max_new_tokens=1)
        assert [len(worker.submitted) for worker in workshop.workers] == [0, 1, 0]
        assert engine.predicted_wait(1) == 1
        group = engine.new_group()
        workshop.workers[1].load = 9
        engine.submit(prompt_ids=(1,), max_new_tokens=1, group=group)
        engine.submit(prompt_ids=(1,), max_new_tokens=1, group=group)
        assert [len(worker.submitted) for worker in workshop.workers] == [0, 3, 0], "a group stays together"
        assert engine.new_group() != group
        assert len(registry.status("tiny").versions[0].replicas) == 3


async def test_a_version_serves_while_one_of_its_replicas_comes_back(
    tmp_path: Path, open_registry: Open, workshop: Workshop
) -> None:
    publish(tmp_path)
    async with open_registry(replicas=2) as registry:
        await registry.until(lambda: registry.states() == {1: "serving"})
        engine = registry.resolve("tiny").engine
        workshop.workers[1].load = 1
        group = engine.new_group()
        workshop.hold = True
        workshop.workers[0].lose()
        assert registry.states() == {1: "serving"}
        engine.submit(prompt_ids=(1,), max_new_tokens=1)
        assert len(workshop.workers[1].submitted) == 1
        with pytest.raises(Loading, match="started again"):
            engine.submit(prompt_ids=(1,), max_new_tokens=1, group=group)
        workshop.workers[1].lose()
        assert registry.states() == {1: "loading"}
        with pytest.raises(Loading, match="started again"):
            engine.submit(prompt_ids=(1,), max_new_tokens=1)
        await registry.until(lambda: len(workshop.workers) == 4)
        workshop.workers[2].go.set()
        await registry.until(lambda: registry.states() == {1: "serving"})
        assert [replica.restarts for replica in registry.status("tiny").versions[0].replicas] == [1, 1]


async def test_a_replica_that_does_not_come_back_is_tried_again_while_others_answer(
    tmp_path: Path, open_registry: Open, workshop: Workshop
) -> None:
    publish(tmp_path)
    async with open_registry(replicas=2) as registry:
        await registry.until(lambda: registry.states() == {1: "serving"})
        workshop.will_refuse("out_of_memory", "it does not fit")
        workshop.will_refuse("out_of_memory", "it does not fit")
        workshop.workers[0].lose()
        await registry.until(lambda: len(workshop.workers) == 5)
        await registry.until(lambda: all(each.ready for each in registry.status("tiny").versions[0].replicas))
        assert registry.states() == {1: "serving"}


async def test_an_override_that_is_over_does_not_come_back(tmp_path: Path, open_registry: Open) -> None:
    async with open_registry(probation=600) as registry:
        await swapped(tmp_path, registry)
        await registry.rollback("tiny", ttl=HOUR, reason="")
        decide(tmp_path, champion=1)
        await registry.until(lambda: registry.status("tiny").source is TrafficSource.CHAMPION)
        decide(tmp_path, champion=2)
        await registry.until(lambda: registry.resolve("tiny").version == 2)
        await registry.look_again(2)
        assert registry.resolve("tiny").version == 2
        assert registry.status("tiny").override is None


async def test_one_refused_replica_ends_the_others(tmp_path: Path, open_registry: Open, workshop: Workshop) -> None:
    workshop.will_refuse("out_of_memory", "it does not fit")
    publish(tmp_path)
    async with open_registry(replicas=2) as registry:
        await registry.until(lambda: registry.states() == {1: "quarantined"})
        await registry.until(lambda: all(worker.stopped for worker in workshop.workers))


async def test_unreadable_weights_of_traffic_leave_what_was_known(
    tmp_path: Path, open_registry: Open, caplog: Any
) -> None:
    publish(tmp_path)
    async with open_registry() as registry:
        await registry.until(lambda: registry.states() == {1: "serving"})
        (tmp_path / "tiny" / "traffic.json").write_text("{")
        await registry.look_again(3)
        assert registry.resolve("tiny").version == 1
        assert sum("passed over until it can be read" in message for message in caplog.messages) == 1


async def test_a_directory_that_cannot_be_read_shows(tmp_path: Path, open_registry: Open) -> None:
    publish(tmp_path)
    away = tmp_path.with_name("away")
    async with open_registry() as registry:
        await registry.until(lambda: registry.states() == {1: "serving"})
        assert sample(registry, "rhapsode_model_directory_readable") == 1
        await asyncio.to_thread(tmp_path.rename, away)
        await registry.ask_until(lambda: sample(registry, "rhapsode_model_directory_readable") == 0)
        assert registry.resolve("tiny").version == 1
        await asyncio.to_thread(away.rename, tmp_path)
        await registry.until(lambda: sample(registry, "rhapsode_model_directory_readable") == 1)


async def test_a_version_that_is_not_whole_yet_is_waited_for(
    tmp_path: Path, open_registry: Open, caplog: pytest.LogCaptureFixture
) -> None:
    publish(tmp_path)
    async with open_registry() as registry:
        await registry.until(lambda: registry.states() == {1: "serving"})
        shutil.copytree(tmp_path / "tiny" / "1", tmp_path / "tiny" / "2")
        manifest = tmp_path / "tiny" / "2" / "MANIFEST.json"
        content = manifest.read_bytes()
        manifest.unlink()
        (tmp_path / "tiny" / "aliases.json").write_text('{"champion": 2}')
        await registry.until(lambda: registry.status("tiny").source is TrafficSource.FALLBACK)
        await registry.look_again(3)
        assert sum("version 2 is decided for and has no MANIFEST.json yet" in each for each in caplog.messages) == 1
        manifest.write_bytes(content)
        await registry.until(lambda: registry.states() == {2: "serving"})


async def test_a_version_that_drains_is_not_brought_back_by_its_replica(
    tmp_path: Path, open_registry: Open, workshop: Workshop
) -> None:
    publish(tmp_path)
    async with open_registry(replicas=2) as registry:
        await registry.until(lambda: registry.states() == {1: "serving"})
        workshop.hold = True
        workshop.workers[0].lose()
        await registry.until(lambda: len(workshop.workers) == 3)
        workshop.workers[1].idle.clear()
        publish(tmp_path)
        await registry.until(lambda: len(workshop.workers) == 5)
        for worker in workshop.workers[3:]:
            worker.go.set()
        await registry.until(lambda: registry.states() == {1: "draining", 2: "serving"})
        workshop.workers[2].go.set()
        await registry.look_again(3)
        assert registry.states() == {1: "draining", 2: "serving"}
        assert workshop.workers[2].stopped
        decide(tmp_path, champion=1)
        await registry.until(lambda: registry.states() == {1: "serving"} and len(workshop.workers) == 6)
        workshop.workers[-1].go.set()
        await registry.until(lambda: all(each.ready for each in registry.status("tiny").versions[0].replicas))
        workshop.workers[1].idle.set()
        await registry.look_again(3)
        assert registry.resolve("tiny").version == 1
        assert not workshop.workers[1].stopped


async def test_a_directory_without_aliases_for_a_moment_changes_nothing(
    tmp_path: Path, open_registry: Open, workshop: Workshop
) -> None:
    async with open_registry(probation=600) as registry:
        await swapped(tmp_path, registry)
        workshop.workers[1].lose()
        await registry.until(lambda: registry.states() == {1: "serving", 2: "quarantined"})
        aliases = tmp_path / "tiny" / "aliases.json"
        content = aliases.read_bytes()
        aliases.unlink()
        await registry.look_again(3)
        aliases.write_bytes(content)
        await registry.look_again(3)
        assert registry.states() == {1: "serving", 2: "quarantined"}


async def test_the_poll_outlives_whatever_fails(
    tmp_path: Path, open_registry: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    async with open_registry(standby=True) as registry:
        monkeypatch.setattr(launcher_module, "_spawn", fails)
        publish(tmp_path)
        await registry.until(lambda: registry.states() == {1: "serving"})
        await registry.look_again(2)
        with monkeypatch.context() as broken:
            broken.setattr(registry_module, "scan", fails)
            publish(tmp_path)
            await registry.ask_until(lambda: sample(registry, "rhapsode_model_directory_readable") == 0)
        await registry.until(lambda: registry.states() == {2: "serving"})


async def test_a_hung_directory_stops_neither_decisions_nor_the_end(
    tmp_path: Path, open_registry: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry_module, "SLOW_SCAN", 0.05)
    hung = threading.Event()
    async with open_registry() as registry:
        publish(tmp_path)
        publish(tmp_path)
        await registry.until(lambda: registry.states() == {2: "serving"})
        await registry.load_version("tiny", 1, ttl=HOUR)
        await registry.set_traffic("tiny", {1: 1}, ttl=0.5, reason="", holds=True)
        await registry.until(lambda: registry.resolve("tiny").version == 1)
        monkeypatch.setattr(registry_module, "scan", lambda *_: hung.wait(30))
        await registry.until(lambda: registry.resolve("tiny").version == 2)
    hung.set()


async def test_what_the_fleet_decided_just_before_the_start_is_on_probation(
    tmp_path: Path, open_registry: Open, workshop: Workshop
) -> None:
    publish(tmp_path)
    publish(tmp_path)
    async with open_registry(probation=600) as registry:
        await registry.until(lambda: registry.states() == {2: "serving"})
        workshop.workers[0].lose()
        await registry.until(lambda: registry.states() == {1: "serving", 2: "quarantined"})


async def test_what_has_nothing_to_go_back_to_serves_on(
    tmp_path: Path, open_registry: Open, workshop: Workshop
) -> None:
    async with open_registry(probation=600) as registry:
        await swapped(tmp_path, registry)
        shutil.rmtree(tmp_path / "tiny" / "1")
        await registry.unload_version("tiny", 1)
        await registry.until(lambda: registry.states() == {2: "serving"})
        workshop.workers[1].lose()
        await registry.ask_until(lambda: len(workshop.workers) == 3 and registry.states()[2] == "serving")


async def test_asking_twice_for_a_rollback_does_not_go_forward(tmp_path: Path, open_registry: Open) -> None:
    async with open_registry(probation=600) as registry:
        await swapped(tmp_path, registry)
        await registry.rollback("tiny", ttl=HOUR, reason="")
        with pytest.raises(NotPossible, match=r"rolled back already, to version 1 \(100%\)"):
            await registry.rollback("tiny", ttl=HOUR, reason="")
        assert registry.resolve("tiny").version == 1


async def test_an_operator_who_gives_up_waiting_leaves_no_half_written_state(
    tmp_path: Path, open_registry: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_registry(probation=600, state_dir=tmp_path / "state") as registry:
        await swapped(tmp_path, registry)
        store, may_go = registry._records.store, threading.Event()
        write = store.set_traffic
        monkeypatch.setattr(store, "set_traffic", lambda *args: (may_go.wait(20), write(*args)))
        given_up = asyncio.create_task(registry.set_traffic("tiny", {1: 1}, ttl=HOUR, reason="first", holds=True))
        await asyncio.sleep(0.05)
        given_up.cancel()
        loading = asyncio.create_task(registry.load_version("tiny", 1, ttl=HOUR))
        await asyncio.sleep(0.05)
        assert not loading.done(), "one writer at a time"
        may_go.set()
        await loading
        document = json.loads((tmp_path / "state" / "state.json").read_text())["models"]["tiny"]
        assert document["traffic"]["reason"] == "first"
        assert list(document["loaded"]) == ["1"]
