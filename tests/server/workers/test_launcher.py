"""Engine processes in reserve, with real processes."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from rhapsode_server.engine.options import EngineOptions
from rhapsode_server.workers import launcher as launcher_module
from rhapsode_server.workers.launcher import Launched, Launcher
from support.publishing import publish_model
from support.tiny_models import VOCABULARY_SIZE, tiny_model
from support.workers import make_worker

LOWEST = 19


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> EngineOptions:
    root = tmp_path_factory.mktemp("models")
    path = root / "tiny" / str(publish_model(root, "tiny", tiny_model("gpt2")))
    return EngineOptions(path=str(path), vocabulary_size=VOCABULARY_SIZE, device="cpu", threads=1)


class Changes:
    """What `standby_ready` was after each change."""

    def __init__(self) -> None:
        self.launcher = Launcher(keep_standby=True, on_change=self._note)
        self.all: asyncio.Queue[bool] = asyncio.Queue()

    def _note(self) -> None:
        self.all.put_nowait(self.launcher.standby_ready)

    async def next(self) -> bool:
        return await asyncio.wait_for(self.all.get(), 60)


@pytest_asyncio.fixture
async def changes() -> AsyncIterator[Changes]:
    changes = Changes()
    yield changes
    await changes.launcher.stop()


def standby_of(launcher: Launcher) -> Launched:
    assert launcher._standby
    return launcher._standby


def priorities(process_id: int) -> set[int]:
    """Of the threads of a process."""
    threads = Path(f"/proc/{process_id}/task").iterdir()
    return {os.getpriority(os.PRIO_PROCESS, int(thread.name)) for thread in threads}


def wait_for_low_priority(process_id: int) -> None:
    """Of any thread. Polled, since a process tells nobody."""
    deadline = time.monotonic() + 30
    while LOWEST not in priorities(process_id):
        assert time.monotonic() < deadline
        time.sleep(0.01)


async def test_the_standby_becomes_the_next_worker(changes: Changes, options: EngineOptions) -> None:
    launcher = changes.launcher
    assert not launcher.standby_ready
    launcher.refill()
    assert await changes.next()
    standby = standby_of(launcher).process.pid
    launcher.refill()
    assert standby_of(launcher).process.pid == standby, "one is enough"

    worker = make_worker(options, launcher=launcher)
    await worker.start()
    assert (worker.was_standby, worker.process_id, launcher.standby_ready) == (True, standby, False)
    assert not await changes.next()
    stream = worker.submit(prompt_ids=(5, 6), max_new_tokens=3)
    assert sum([len(chunk.token_ids) async for chunk in stream]) == 3

    beside = make_worker(options, launcher=launcher)
    await beside.start()
    assert not beside.was_standby, "there is none until it is refilled"
    for each in (worker, beside):
        assert os.getpriority(os.PRIO_PROCESS, each.process_id) == 0, "its main thread, which serves"
        await each.stop()
    assert launcher.num_serving == 0


async def test_only_what_starts_beside_a_worker_gives_way(changes: Changes) -> None:
    launcher = changes.launcher
    launched = [launcher.launch()]
    launcher.num_serving = 1
    launched.append(launcher.launch())
    launcher.refill()
    standby = standby_of(launcher)
    launcher.num_serving = 0
    launched.append(launcher.launch())
    assert [each.gives_way for each in launched] == [False, True, False], "as when it is to load"
    assert launched[2].process is standby.process
    # It imports: an end of that would be an end of the thread too.
    await asyncio.to_thread(wait_for_low_priority, standby.process.pid)
    assert priorities(launched[0].process.pid) == {0}
    for each in launched:
        _end(each)


async def test_a_standby_that_dies_is_replaced(
    changes: Changes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(launcher_module, "_PAUSE_SECONDS", 0.01)
    changes.launcher.refill()
    assert await changes.next()
    dead = standby_of(changes.launcher).process
    os.kill(dead.pid, signal.SIGKILL)
    assert not await changes.next()
    assert await changes.next(), "another is ready"
    assert standby_of(changes.launcher).process.pid != dead.pid
    assert dead.returncode == -signal.SIGKILL
    assert "the standby process ended" in caplog.text


async def test_a_standby_that_died_unnoticed_is_not_handed_out(changes: Changes) -> None:
    changes.launcher.refill()
    dead = standby_of(changes.launcher).process
    dead.kill()
    dead.wait()
    launched = changes.launcher.launch()
    assert launched.process.pid != dead.pid
    assert not launched.is_standby
    _end(launched)


async def test_none_is_kept_unless_asked_for_nor_after_the_end(changes: Changes) -> None:
    without = Launcher(keep_standby=False)
    without.refill()
    assert without._standby is None
    changes.launcher.refill()
    process = standby_of(changes.launcher).process
    await changes.launcher.stop()
    assert process.returncode == -signal.SIGKILL
    changes.launcher.refill()
    assert changes.launcher._standby is None


def _end(launched: Launched) -> None:
    launched.connection.close()
    launched.process.kill()
    launched.process.wait()
