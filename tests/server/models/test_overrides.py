"""What was decided for one server survives it, and nothing on its disk can keep it from starting."""

import errno
import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from rhapsode_contract.model_directory import files
from rhapsode_server.models.overrides import Refusal, StateNotWritten, StateStore
from rhapsode_server.models.served import TrafficOverride

REFUSAL = Refusal(fingerprint="ab12", reason="latency", detail="4.0 times the version before")


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


def override(expires_at: float = 2000.0, **fields) -> TrafficOverride:
    return TrafficOverride(**{"weights": {12: 90, 13: 10}, "expires_at": expires_at, "reason": "trial"} | fields)


def fill(store: StateStore) -> None:
    store.set_traffic("poems", override(based_on={13: 1}))
    store.set_loaded("poems", 14, 3000.0)
    store.set_refusal("poems", 13, REFUSAL)
    store.set_traffic("stories", override(1500.0))


def check_filled(store: StateStore) -> None:
    assert store.traffic("poems") == override(based_on={13: 1})
    assert store.traffic("stories") == override(1500.0)
    assert store.loaded("poems") == {14: 3000.0}
    assert store.refusals("poems") == {13: REFUSAL}


def test_a_new_server_has_decided_nothing(tmp_path: Path) -> None:
    for store in (StateStore(tmp_path / "state"), StateStore(None)):
        assert (store.traffic("poems"), store.loaded("poems"), store.refusals("poems")) == (None, {}, {})
    assert not list((tmp_path / "state").iterdir())


def test_a_directory_that_cannot_be_written_to_is_said_at_the_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    StateStore(tmp_path / "file" / "state")
    assert "--state-dir: operators' decisions will be refused" in caplog.text


def test_decisions_survive_a_restart(tmp_path: Path) -> None:
    store = StateStore(tmp_path / "state", Clock())
    fill(store)
    check_filled(store)
    check_filled(StateStore(tmp_path / "state", Clock()))


def test_without_a_directory_they_are_in_memory_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = StateStore(None, Clock())
    fill(store)
    check_filled(store)
    assert not list(tmp_path.iterdir())


def test_a_decision_taken_back_is_gone_from_the_disk_too(tmp_path: Path) -> None:
    store = StateStore(tmp_path, Clock())
    fill(store)
    store.set_traffic("poems", None)
    store.set_loaded("poems", 14, None)
    store.set_refusal("poems", 13, None)
    again = StateStore(tmp_path, Clock())
    assert (again.traffic("poems"), again.loaded("poems"), again.refusals("poems")) == (None, {}, {})
    assert again.traffic("stories") is not None
    assert "poems" not in (tmp_path / "state.json").read_text()


def test_what_has_expired_is_gone(tmp_path: Path) -> None:
    clock = Clock()
    store = StateStore(tmp_path, clock)
    fill(store)
    clock.now = 1999.9
    assert store.traffic("poems") is not None
    assert store.traffic("stories") is None
    clock.now = 2000.0
    assert (store.traffic("poems"), store.loaded("poems")) == (None, {14: 3000.0})
    clock.now = 3000.0
    assert store.loaded("poems") == StateStore(tmp_path, clock).loaded("poems") == {}
    assert store.refusals("poems") == {13: REFUSAL}
    store.set_refusal("poems", 13, None)
    assert json.loads((tmp_path / "state.json").read_bytes())["models"] == {}


def test_what_is_handed_out_is_a_copy() -> None:
    store = StateStore(None, Clock())
    fill(store)
    store.loaded("poems")[99] = 1e12
    store.refusals("poems").clear()
    check_filled(store)


def test_a_disk_that_is_full_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = StateStore(tmp_path, Clock())
    fill(store)

    def full(descriptor: int, data: bytes) -> NoReturn:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(files.os, "write", full)
        for change in (
            lambda: store.set_traffic("poems", None),
            lambda: store.set_loaded("poems", 15, 1e9),
            lambda: store.set_refusal("stories", 1, REFUSAL),
        ):
            with pytest.raises(StateNotWritten, match=r"cannot be stored: .*No space left"):
                change()
    check_filled(store)
    check_filled(StateStore(tmp_path, Clock()))
    store.set_traffic("poems", None)
    assert StateStore(tmp_path, Clock()).traffic("poems") is None


def test_what_changes_nothing_needs_no_disk(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    store = StateStore(tmp_path / "file")
    store.set_traffic("poems", None)
    store.set_loaded("poems", 14, None)
    with pytest.raises(StateNotWritten):
        store.set_loaded("poems", 14, 1e12)


@pytest.mark.parametrize("operation", range(12))
def test_a_crash_leaves_the_old_decision_or_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operation: int
) -> None:
    fill(StateStore(tmp_path, Clock()))
    remaining = [operation]

    class DyingDisk:
        def __getattr__(self, name: str):
            real = getattr(os, name)
            if not callable(real) or name == "close":
                return real

            def run(*arguments, **options):
                if remaining[0] == 0:
                    raise OSError(errno.EIO, "the machine is gone")
                remaining[0] -= 1
                return real(*arguments, **options)

            return run

    store = StateStore(tmp_path, Clock())
    with monkeypatch.context() as patched:
        patched.setattr(files, "os", DyingDisk())
        try:
            store.set_traffic("poems", override(5000.0))
        except StateNotWritten:
            check_filled(store)
    after = StateStore(tmp_path, Clock()).traffic("poems")
    assert after in (override(based_on={13: 1}), override(5000.0))
    if remaining[0]:
        assert after == override(5000.0)


CORRUPT = [
    b"",
    b"{",
    b"[]",
    b"7",
    b"\xff",
    b"[" * 100_000,
    b"{}",
    b'{"schema_version": 2, "models": {}}',
    b'{"schema_version": 1, "models": []}',
    b'{"schema_version": 1, "models": {"poems": null}}',
    b'{"schema_version": 1, "models": {"poems": {"traffic": {}, "loaded": {}, "refusals": {}}}}',
    b'{"schema_version": 1, "models": {"poems": {"traffic": null, "loaded": {"x": 1}, "refusals": {}}}}',
    b'{"schema_version": 1, "models": {"poems": {"traffic": null, "loaded": {}, "refusals": {"1": "no"}}}}',
    b'{"schema_version": 1, "models": {"poems": {"traffic": {"weights": {"1": -1}, "expires_at": 9e9, "reason": "", '
    b'"based_on": null}, "loaded": {}, "refusals": {}}}}',
]


@pytest.mark.parametrize("content", CORRUPT, ids=range(len(CORRUPT)))
def test_a_file_that_cannot_be_understood_is_moved_aside(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    (tmp_path / "state.json").write_bytes(content)
    store = StateStore(tmp_path, Clock())
    [record] = caplog.records
    assert (record.levelno, "state.json.corrupt" in record.getMessage()) == (logging.ERROR, True)
    assert store.traffic("poems") is None
    assert (tmp_path / "state.json.corrupt").read_bytes() == content
    fill(store)
    check_filled(StateStore(tmp_path, Clock()))


def test_a_file_that_cannot_be_read_is_an_error_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "state.json").mkdir()
    store = StateStore(tmp_path, Clock())
    [record] = caplog.records
    assert (record.levelno, "cannot be read" in record.getMessage()) == (logging.ERROR, True)
    with pytest.raises(StateNotWritten):
        fill(store)


@given(
    st.binary(max_size=60)
    | st.recursive(
        st.none() | st.integers() | st.text(max_size=3),
        lambda each: (
            st.lists(each, max_size=3)
            | st.dictionaries(st.sampled_from(["schema_version", "models", "poems", "traffic", "loaded", "1"]), each)
        ),
    ).map(lambda document: json.dumps(document).encode())
)
def test_no_content_keeps_a_server_from_starting(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    directory = tmp_path_factory.mktemp("state")
    (directory / "state.json").write_bytes(content)
    assert StateStore(directory, Clock()).traffic("poems") is None


MODELS = st.sampled_from(["poems", "stories"])
VERSIONS = st.integers(min_value=1, max_value=3)
WEIGHTS = st.dictionaries(VERSIONS, st.integers(min_value=0, max_value=100))
MOMENTS = st.floats(min_value=0, max_value=100)
OVERRIDES = st.builds(
    TrafficOverride, weights=WEIGHTS, expires_at=MOMENTS, reason=st.text(max_size=5), based_on=st.none() | WEIGHTS
)


class RestartsAnywhere(RuleBasedStateMachine):
    """A store that is read from the disk again is the one that was written, whatever was decided and has expired."""

    directory: Path

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock(0.0)
        (self.directory / "state.json").unlink(missing_ok=True)
        self.store = StateStore(self.directory, self.clock)

    @rule(seconds=st.floats(min_value=0, max_value=50))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule(model=MODELS, override=st.none() | OVERRIDES)
    def set_traffic(self, model: str, override: TrafficOverride | None) -> None:
        self.store.set_traffic(model, override)
        expected = override if override and override.expires_at > self.clock.now else None
        assert self.store.traffic(model) == expected

    @rule(model=MODELS, version=VERSIONS, expires_at=st.none() | MOMENTS)
    def set_loaded(self, model: str, version: int, expires_at: float | None) -> None:
        self.store.set_loaded(model, version, expires_at)
        assert (version in self.store.loaded(model)) == (expires_at is not None and expires_at > self.clock.now)

    @rule(model=MODELS, version=VERSIONS, refused=st.booleans())
    def set_refusal(self, model: str, version: int, refused: bool) -> None:
        self.store.set_refusal(model, version, REFUSAL if refused else None)
        assert (version in self.store.refusals(model)) == refused

    @invariant()
    def survives(self) -> None:
        again = StateStore(self.directory, self.clock)
        for model in ("poems", "stories"):
            assert again.traffic(model) == self.store.traffic(model)
            assert again.loaded(model) == self.store.loaded(model)
            assert again.refusals(model) == self.store.refusals(model)


def test_a_restart_forgets_nothing(tmp_path: Path) -> None:
    RestartsAnywhere.directory = tmp_path
    run_state_machine_as_test(RestartsAnywhere, settings=settings(max_examples=25, stateful_step_count=15))
