"""Threads that compute are pinned each to a core of its own; all others run anywhere."""

import os
from pathlib import Path

import pytest
from rhapsode_server.engine.host_processors import affinity, cores_of_affinity
from rhapsode_server.engine.options import EngineOptions
from rhapsode_server.engine.request import Constraint
from support.publishing import publish_model
from support.tiny_models import VOCABULARY_SIZE, tiny_model
from support.workers import children_of, make_worker

CORES = cores_of_affinity()


async def affinities(root: Path, threads: int) -> tuple[list[set[int]], list[set[int]]]:
    """Of the threads of a worker that has served, and of those of the process in which it tries constraints."""
    path = root / "tiny" / str(publish_model(root, "tiny", tiny_model("gpt2")))
    options = EngineOptions(path=str(path), vocabulary_size=VOCABULARY_SIZE, device="cpu", threads=threads)
    worker = make_worker(options)
    await worker.start()
    try:
        stream = worker.submit(prompt_ids=(5, 6), max_new_tokens=4, constraint=Constraint("regex", "(a|b)*"))
        assert [chunk async for chunk in stream]
        [trial] = children_of(worker.process_id)
        return threads_of(worker.process_id), threads_of(trial)
    finally:
        await worker.stop()


def threads_of(process_id: int) -> list[set[int]]:
    return [os.sched_getaffinity(int(task)) for task in os.listdir(f"/proc/{process_id}/task")]


async def test_there_is_one_on_each_core_and_others_run_anywhere(tmp_path: Path) -> None:
    worker, trial = await affinities(tmp_path, len(CORES))
    pinned = [each for each in worker if each != set(affinity())]
    if len(CORES) > 1:
        assert sorted(map(sorted, pinned)) == sorted(map(sorted, CORES))
    assert len(worker) > len(pinned)
    assert all(each == set(affinity()) for each in trial)


@pytest.mark.skipif(len(CORES) == 1, reason="one core leaves none free")
async def test_where_they_leave_a_core_free_the_system_moves_them(tmp_path: Path) -> None:
    worker, _ = await affinities(tmp_path, len(CORES) - 1)
    assert all(each == set(affinity()) for each in worker)
