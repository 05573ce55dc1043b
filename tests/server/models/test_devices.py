"""Workers are spread over devices."""

import pytest
from rhapsode_server.models import devices
from rhapsode_server.models.devices import Device, DevicePool
from support.checking_runner import Clock


def test_the_device_with_the_fewest_workers_is_next() -> None:
    pool = DevicePool(("cuda:0", "cuda:1"), threads=0)
    first, second, third = pool.take(), pool.take(), pool.take()
    assert [place.device.name for place in (first, second, third)] == ["cuda:0", "cuda:1", "cuda:0"]
    first.give_back()
    third.give_back()
    assert pool.take().device == Device("cuda:0", 0)


def test_a_share_of_the_cpu_is_so_many_threads() -> None:
    assert DevicePool(("cpu:4",), threads=1).take().device == Device("cpu", 4)
    assert DevicePool(("cpu",), threads=3).take().device == Device("cpu", 3)
    assert DevicePool(("auto",), threads=2).take().device == Device("auto", 2)


def test_replicas_on_one_device_share_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "available_cores", lambda: 8)
    assert DevicePool(("cpu",), threads=0, replicas=2).take().device == Device("cpu", 4)
    assert DevicePool(("auto",), threads=0, replicas=3).take().device == Device("auto", 2)
    assert DevicePool(("cpu",), threads=0, replicas=20).take().device == Device("cpu", 1)
    assert DevicePool(("cpu", "cpu"), threads=0, replicas=2).take().device == Device("cpu", 4)
    assert DevicePool(("cuda:0", "cuda:1"), threads=0, replicas=2).take().device == Device("cuda:0", 0)
    assert DevicePool(("cpu",), threads=3, replicas=2).take().device == Device("cpu", 3), "as the operator says"


def test_a_device_hangs_from_the_end_of_its_last_worker_until_one_is_ready_there() -> None:
    clock = Clock()
    pool = DevicePool(("cuda:0", "cuda:1"), threads=0, clock=clock)
    first, other, second = pool.take(), pool.take(), pool.take()
    for place in (first, other, second):
        place.note_ready()
    first.note_end(is_hung=True)
    assert pool.hung_for(0.0) == (), "another answers there"
    second.note_end(is_hung=True)
    assert pool.hung_for(0.0) == ("cuda:0",)
    clock.now += 5.0
    assert (pool.hung_for(5.0), pool.hung_for(5.1)) == (("cuda:0",), ())
    other.note_end(is_hung=True)
    assert pool.hung_for(5.0) == ("cuda:0",)
    assert pool.hung_for(0.0) == ("cuda:0", "cuda:1")
    second.note_ready()
    assert pool.hung_for(0.0) == ("cuda:1",)


def test_a_worker_that_ends_otherwise_hangs_no_device() -> None:
    place = DevicePool(("cpu",), threads=0).take()
    place.note_ready()
    place.note_end(is_hung=False)
    assert place._pool.hung_for(0.0) == ()
