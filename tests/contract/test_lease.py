import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from rhapsode_contract.model_directory import (
    Intervention,
    Lease,
    LeaseHeld,
    LeaseLost,
    ModelFolder,
    NoSuchModel,
    files,
    lease,
)

FOREVER = 3600.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The time that leases see: `clock.now`."""
    clock = SimpleNamespace(now=1_700_000_000.0)
    monkeypatch.setattr(lease, "time", SimpleNamespace(time=lambda: clock.now))
    return clock


def renewed(folder: ModelFolder) -> float:
    with files.locked(folder.path / ".lease", wait=10) as descriptor:
        return float(json.loads(files.read_locked(descriptor))["renewed"])


def test_a_held_lease_is_refused_with_its_owner(folder: ModelFolder) -> None:
    with Lease.acquire(folder, owner="ann"), pytest.raises(LeaseHeld, match="poems is being published by ann"):
        Lease.acquire(folder, owner="bob")


def test_release_frees_it(folder: ModelFolder) -> None:
    first = Lease.acquire(folder, owner="ann")
    first.release()
    with Lease.acquire(folder, owner="bob") as second:
        second.check()
        with pytest.raises(LeaseLost, match="taken over by bob"):
            first.check()
        first.release()
        second.check()
    with pytest.raises(LeaseLost, match="freed"):
        second.check()


def test_leases_of_different_models_are_independent(folder: ModelFolder) -> None:
    other = ModelFolder(folder.path.with_name("stories"))
    with Lease.acquire(folder, owner="ann") as ours, Lease.acquire(other, owner="ann") as theirs:
        ours.check()
        theirs.check()


def test_a_lease_runs_out_when_its_time_is_over(folder: ModelFolder, clock: SimpleNamespace) -> None:
    first = Lease.acquire(folder, owner="ann", ttl=FOREVER)
    clock.now += FOREVER - 1
    first.check()
    with pytest.raises(LeaseHeld):
        Lease.acquire(folder, owner="bob", ttl=FOREVER)
    clock.now += 1
    with pytest.raises(LeaseLost, match="ran out"):
        first.check()
    with Lease.acquire(folder, owner="bob", ttl=FOREVER) as second:
        second.check()
        with pytest.raises(LeaseLost, match="taken over by bob"):
            first.check()
    first.release()


def test_a_lease_from_the_far_future_is_stale(folder: ModelFolder, clock: SimpleNamespace) -> None:
    clock.now += 10 * FOREVER
    wrong_clock = Lease.acquire(folder, owner="ann", ttl=FOREVER)
    clock.now -= 10 * FOREVER
    with Lease.acquire(folder, owner="bob", ttl=FOREVER) as second:
        second.check()
    wrong_clock.release()


@pytest.mark.parametrize("garbage", [b"", b"{", b"null", b"[]", b'{"token": "x"}', b"\xff" * 100_000])
def test_a_torn_lease_is_free(folder: ModelFolder, garbage: bytes) -> None:
    folder.path.mkdir(parents=True)
    (folder.path / ".lease").write_bytes(garbage)
    with Lease.acquire(folder, owner="ann") as ours:
        ours.check()


def test_the_heartbeat_keeps_it_alive(folder: ModelFolder, clock: SimpleNamespace) -> None:
    deadline = time.monotonic() + 10
    with Lease.acquire(folder, owner="ann", ttl=0.03) as ours:
        for _ in range(10):
            clock.now += 0.02
            while renewed(folder) != clock.now:
                assert time.monotonic() < deadline
            ours.check()


def test_the_heartbeat_does_not_revive_a_lease_that_ran_out(folder: ModelFolder, clock: SimpleNamespace) -> None:
    ours = Lease.acquire(folder, owner="ann", ttl=0.03)
    clock.now += 1
    heart = next(thread for thread in threading.enumerate() if thread.name == "lease of poems")
    heart.join(timeout=10)
    assert not heart.is_alive()
    with pytest.raises(LeaseLost, match="ran out"):
        ours.check()


@pytest.mark.parametrize("ttl", [0, -1.0, float("nan"), float("inf")])
def test_a_senseless_time_to_live_is_refused(folder: ModelFolder, ttl: float) -> None:
    with pytest.raises(ValueError, match="ttl"):
        Lease.acquire(folder, owner="ann", ttl=ttl)


def test_of_many_contenders_for_a_stale_lease_exactly_one_wins(folder: ModelFolder, clock: SimpleNamespace) -> None:
    contenders = 4
    barrier = threading.Barrier(contenders)
    leases = [Lease.acquire(folder, owner="dead", ttl=FOREVER)]

    def contend(name: int) -> Lease | None:
        barrier.wait()
        try:
            return Lease.acquire(folder, owner=str(name), ttl=FOREVER)
        except LeaseHeld:
            return None

    with ThreadPoolExecutor(contenders) as pool:
        for _ in range(200):
            clock.now += FOREVER
            (winner,) = filter(None, pool.map(contend, range(contenders)))
            winner.check()
            with pytest.raises(LeaseLost):
                leases[-1].check()
            leases.append(winner)
    for held in leases:
        held.release()


def test_a_lease_whose_file_was_deleted_is_lost(folder: ModelFolder) -> None:
    with Lease.acquire(folder, owner="ann") as ours:
        (folder.path / ".lease").unlink()
        with pytest.raises(LeaseLost, match="freed"):
            ours.check()


def test_nobody_takes_over_inside_the_guard_even_when_the_lease_runs_out(
    folder: ModelFolder, clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "LOCK_WAIT_SECONDS", 0.02)
    ours = Lease.acquire(folder, owner="ann", ttl=FOREVER)
    with ours.guard(folder):
        clock.now += FOREVER
        with pytest.raises(LeaseHeld, match="in the middle of a step"):
            Lease.acquire(folder, owner="bob", ttl=FOREVER)
    with Lease.acquire(folder, owner="bob", ttl=FOREVER):
        pass
    ours.release()


def test_a_lease_that_cannot_be_confirmed_counts_as_lost(folder: ModelFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "LOCK_WAIT_SECONDS", 0.02)
    with Lease.acquire(folder, owner="ann") as ours:
        with files.locked(folder.path / ".lease", wait=0), pytest.raises(LeaseLost, match="confirmed"):
            ours.check()
        ours.check()


def test_a_holder_that_lives_is_not_waited_for(folder: ModelFolder) -> None:
    began = time.monotonic()
    with (
        Lease.acquire(folder, owner="ann", ttl=6),
        pytest.raises(LeaseHeld, match="poems is being published by ann"),
    ):
        Lease.acquire_or_outlive(folder, owner="bob", ttl=6)
    assert time.monotonic() - began < 3, "a heartbeat, not a life"


def test_a_holder_that_died_is_outlived(folder: ModelFolder) -> None:
    dead = Lease.acquire(folder, owner="ann", ttl=1)
    dead._released.set()  # its heart stops, as by SIGKILL
    with Lease.acquire_or_outlive(folder, owner="bob", ttl=1) as second:
        second.check()
        with pytest.raises(LeaseLost, match="taken over by bob"):
            dead.check()


def test_waiting_for_a_lease_can_be_left(folder: ModelFolder) -> None:
    def leave() -> None:
        raise InterruptedError

    Lease.acquire(folder, owner="ann", ttl=FOREVER)._released.set()
    with pytest.raises(InterruptedError):
        Lease.acquire_or_outlive(folder, owner="bob", ttl=FOREVER, check=leave)


def test_an_intervention_waits_for_no_lease_and_takes_none(
    folder: ModelFolder, publish_one: Callable[..., int]
) -> None:
    publish_one()
    publish_one()
    with Lease.acquire(folder, owner="a run of hours") as held:
        folder.set_alias("champion", 1, lease=Intervention(), actor="ann", reason="roll back")
        held.check()
        folder.set_alias("champion", 2, lease=held, actor="run", reason="better")
    assert [(move["actor"], move["to"]) for move in folder.history()[2:]] == [("ann", 1), ("run", 2)]
    with Lease.acquire(folder, owner="bob"):
        pass


def test_an_intervention_waits_for_the_step_of_another(folder: ModelFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "LOCK_WAIT_SECONDS", 0.0)
    busy = pytest.raises(LeaseHeld, match="poems: somebody is in the middle of a step")
    with Lease.acquire(folder, owner="ann") as held, held.guard(folder), busy, Intervention().guard(folder):
        pass


def test_an_intervention_leaves_nothing_behind_a_mistyped_name(folder: ModelFolder) -> None:
    decision = {"lease": Intervention(), "actor": "ann", "reason": "typo"}
    for decide in (
        lambda: folder.set_alias("champion", 1, **decision),
        lambda: folder.drop_alias("pinned", **decision),
        lambda: folder.set_traffic({}, **decision),
    ):
        with pytest.raises(NoSuchModel, match="poems"):
            decide()
    assert not folder.path.exists()
