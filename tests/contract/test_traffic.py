import json
import math
from collections.abc import Callable, Mapping

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rhapsode_contract.model_directory import CorruptFile, Lease, LeaseLost, ModelFolder, NoSuchVersion

Publish = Callable[..., int]
ONCE = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50, deadline=None)


def split(folder: ModelFolder, weights: Mapping[int, int]) -> None:
    with Lease.acquire(folder, owner="test") as lease:
        folder.set_traffic(weights, lease=lease, actor="ann", reason="try")


@pytest.fixture
def three(folder: ModelFolder, publish_one: Publish) -> ModelFolder:
    """The folder with versions 1 to 3."""
    for _ in range(3):
        publish_one()
    return folder


def test_nobody_has_set_any(folder: ModelFolder) -> None:
    assert folder.traffic() == {}


def test_the_file_is_plain_json_for_other_programs(three: ModelFolder) -> None:
    split(three, {3: 10, 2: 90})
    document = json.loads((three.path / "traffic.json").read_text())
    assert document == {"schema_version": 1, "weights": {"2": 90, "3": 10}}


def test_a_split_is_set_replaced_and_removed_on_record(three: ModelFolder) -> None:
    moves = len(three.history())
    for weights in ({3: 1, 2: 9}, {2: 9, 3: 1}, {1: 0, 3: 5}, {}, {}):
        split(three, weights)
        assert three.traffic() == weights
    assert not (three.path / "traffic.json").exists()
    records = three.history()[moves:]
    assert [record["traffic"] for record in records] == [{"2": 9, "3": 1}, {"1": 0, "3": 5}, {}]
    assert {(record["actor"], record["reason"]) for record in records} == {("ann", "try")}


def test_versions_are_numbered_on_past_a_split(three: ModelFolder, publish_one: Publish) -> None:
    split(three, {3: 1})
    assert publish_one() == 4


@ONCE
@given(st.dictionaries(st.integers(1, 3), st.integers(0, 2**32 - 1)).filter(lambda weights: sum(weights.values()) > 0))
def test_what_is_set_is_what_is_read(three: ModelFolder, weights: dict[int, int]) -> None:
    split(three, weights)
    assert three.traffic() == weights
    assert list(three.traffic()) == sorted(weights)


@pytest.mark.parametrize(
    ("weights", "complaint"),
    [
        ({1: -1, 2: 2}, "version 1: -1"),
        ({1: 2**32}, "version 1: 4294967296"),
        ({1: True}, "version 1: True"),
        ({1: 0.5}, r"version 1: 0\.5"),
        ({1: math.nan}, "version 1: nan"),
        ({1: 0, 2: 0}, "all of them are 0"),
    ],
)
def test_weights_that_split_nothing_are_refused(three: ModelFolder, weights: dict[int, int], complaint: str) -> None:
    split(three, {3: 1})
    with pytest.raises(ValueError, match=complaint):
        split(three, weights)
    assert three.traffic() == {3: 1}


def test_a_version_that_is_not_there_gets_no_weight(folder: ModelFolder, publish_one: Publish) -> None:
    with pytest.raises(NoSuchVersion, match="no version 1; it has none"):
        split(folder, {1: 1})
    publish_one()
    with pytest.raises(NoSuchVersion, match="no version 2; it has 1"):
        split(folder, {1: 1, 2: 0})
    assert folder.traffic() == {}


def test_nothing_is_set_without_the_lease(three: ModelFolder) -> None:
    with Lease.acquire(three, owner="test") as lease:
        lease.release()
        with pytest.raises(LeaseLost):
            three.set_traffic({1: 1}, lease=lease, actor="ann", reason="late")
    assert three.traffic() == {}


CORRUPT = [
    "",
    "{",
    "[]",
    "3",
    "{}",
    "[" * 100_000,
    '{"schema_version": 1}',
    '{"schema_version": 1, "weights": [1]}',
    '{"weights": {"1": 1}}',
    '{"schema_version": 2, "weights": {"1": 1}}',
    '{"schema_version": true, "weights": {"1": 1}}',
    '{"schema_version": 1, "weights": {"01": 1}}',
    '{"schema_version": 1, "weights": {"champion": 1}}',
    '{"schema_version": 1, "weights": {"1": "1"}}',
    '{"schema_version": 1, "weights": {"1": 1.5}}',
    '{"schema_version": 1, "weights": {"1": true}}',
    '{"schema_version": 1, "weights": {"1": -1, "2": 2}}',
    '{"schema_version": 1, "weights": {"1": 4294967296}}',
    '{"schema_version": 1, "weights": {"1": ' + "9" * 5000 + "}}",
    '{"schema_version": 1, "weights": {"1": NaN}}',
    '{"schema_version": 1, "weights": {"1": 0}}',
]


@pytest.mark.parametrize("garbage", CORRUPT, ids=lambda garbage: garbage[:50])
def test_a_corrupt_file_is_an_error_that_names_it_and_can_be_written_anew(three: ModelFolder, garbage: str) -> None:
    path = three.path / "traffic.json"
    for weights in ({1: 1}, {}):
        path.write_text(garbage)
        with pytest.raises(CorruptFile, match=r"poems/traffic\.json: .*; set the traffic anew, or remove the file"):
            three.traffic()
        split(three, weights)
        assert three.traffic() == weights


def test_what_newer_programs_add_is_passed_over(three: ModelFolder) -> None:
    path = three.path / "traffic.json"
    path.write_text('{"schema_version": 1, "weights": {"2": 1, "99": 0}, "note": "hi"}')
    assert three.traffic() == {2: 1, 99: 0}
    path.write_text('{"schema_version": 1, "weights": {}}')
    assert three.traffic() == {}


@pytest.mark.parametrize("size", range(1, 60, 7))
def test_a_half_written_file_is_never_half_a_split(three: ModelFolder, size: int) -> None:
    split(three, {1: 90, 2: 10})
    path = three.path / "traffic.json"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(CorruptFile):
        three.traffic()
