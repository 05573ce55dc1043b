"""Real worker processes without a server."""

import asyncio
from pathlib import Path
from typing import Any

from rhapsode_server.engine.options import EngineOptions
from rhapsode_server.workers.exits import ExitReason
from rhapsode_server.workers.launcher import Launcher
from rhapsode_server.workers.worker import Worker

from support.steps import StepLog


class WorkerEvents:
    """What a worker told."""

    def __init__(self) -> None:
        self.steps = StepLog()
        self.stages: list[str] = []
        self.warming = asyncio.Event()
        self.lost: asyncio.Queue[ExitReason] = asyncio.Queue()
        self.exits: asyncio.Queue[ExitReason] = asyncio.Queue()

    def note_stage(self, name: str) -> None:
        self.stages.append(name)
        self.warming.set()


def make_worker(options: EngineOptions, events: WorkerEvents | None = None, **overrides: Any) -> Worker:
    """With wide limits and a process of its own."""
    events = events or WorkerEvents()
    settings: dict[str, Any] = {
        "max_queued_requests": 100,
        "max_queued_tokens": 10**6,
        "launcher": Launcher(keep_standby=False),
        "load_timeout": 60.0,
        "step_timeout": 20.0,
    }
    return Worker(
        options=options,
        on_step=events.steps,
        on_stage=events.note_stage,
        on_lost=events.lost.put_nowait,
        on_exit=events.exits.put_nowait,
        **settings | overrides,
    )


def children_of(process_id: int) -> list[int]:
    """The ids of the processes that one has started."""
    files = Path(f"/proc/{process_id}/task").glob("*/children")
    return [int(child) for file in files for child in file.read_text().split()]
