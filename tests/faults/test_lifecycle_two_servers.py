"""Two servers follow one model directory and each other's verdicts: they come to serve the same."""

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.fleet import Fleet
from support.operators import Operator, operating
from support.publishing import publish_tiny
from support.servers import running_server

POLL_INTERVAL = 5.0 if os.environ.get("RHAPSODE_SOAK") else 0.5
TWO_POLLS = 2 * POLL_INTERVAL
LOAD_SECONDS = 60.0
"""More than a version takes to load beside another on a busy machine."""


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[list[Operator]]:
    publish_tiny(tmp_path, "poems", seed=1, canary=True)
    flags = ["--threads", "1", "--poll-interval", f"{POLL_INTERVAL}s", "--standby", "off"]
    with ExitStack() as stack:
        running = [stack.enter_context(running_server(tmp_path, *flags)) for _ in range(2)]
        yield [stack.enter_context(operating(server, 1)) for server in running]


def converge(servers: list[Operator], *versions: int, within: float) -> float:
    """Until all serve exactly these; returns after how many seconds, which may be `within` at most in all."""
    seconds = 0.0
    for server in servers:
        seconds += server.until_serving(*versions, seconds=within - seconds)
    return seconds


def test_two_servers_on_one_directory_converge_within_two_polls(tmp_path: Path, servers: list[Operator]) -> None:
    fleet = Fleet(tmp_path)
    publish_tiny(tmp_path, "poems", seed=2, canary=True)
    seconds = {"published, with loading": converge(servers, 2, within=TWO_POLLS + LOAD_SECONDS)}
    fleet.promote(1)
    seconds["rolled back"] = converge(servers, 1, within=TWO_POLLS)
    fleet.promote(2)
    seconds["promoted again"] = converge(servers, 2, within=TWO_POLLS)
    fleet.pin(1)
    seconds["pinned"] = converge(servers, 1, within=TWO_POLLS)
    fleet.pin(None)
    seconds["unpinned"] = converge(servers, 2, within=TWO_POLLS)
    fleet.split({1: 1, 2: 3})
    seconds["split"] = converge(servers, 1, 2, within=TWO_POLLS)
    fleet.split({})
    seconds["split no more"] = converge(servers, 2, within=TWO_POLLS)
    print(", ".join(f"{name}: {after:.1f} s" for name, after in seconds.items()))
    assert all(server.server.metric("rhapsode_quarantines_total") == 0 for server in servers)
    assert all("Traceback" not in server.server.output for server in servers)
