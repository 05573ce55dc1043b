"""What was decided for this server alone, by operators and by probation: kept in its state directory, it outlives it.

<state-dir>/state.json
{"schema_version": 1, "models": {"poems": {
    "traffic": {"weights": {"12": 1}, "expires_at": 1790000000.0, "reason": "...", "based_on": {"13": 1},
                "is_rollback": false} or null,
    "loaded": {"14": 1790000000.0},
    "refusals": {"13": {"fingerprint": "...", "reason": "error_rate", "detail": "..."}}}}}
"""

import json
import logging
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from rhapsode_contract.model_directory.files import make_directory, replace_file

from rhapsode_server.models.served import TrafficOverride

T = TypeVar("T")

logger = logging.getLogger("rhapsode.models")

_SCHEMA_VERSION = 1


class StateNotWritten(Exception):  # noqa: N818 - it says what happened
    """The state directory cannot be written to; nothing has changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A version that was rolled back. Its `fingerprint` is that of its files: others may do better."""

    fingerprint: str
    reason: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _ModelState:
    traffic: TrafficOverride | None = None
    loaded: Mapping[int, float] = field(default_factory=dict)
    refusals: Mapping[int, Refusal] = field(default_factory=dict)

    def without_expired(self, now: float) -> "_ModelState":
        traffic = self.traffic if self.traffic and self.traffic.expires_at > now else None
        loaded = {version: expires_at for version, expires_at in self.loaded.items() if expires_at > now}
        return replace(self, traffic=traffic, loaded=loaded)


class StateStore:
    """The decisions for each model; those that have expired are gone. Without a directory, they end with the process.

    `clock` gives Unix time in seconds. Setters write first: they raise StateNotWritten and change nothing where that
    fails. A file that cannot be understood is moved aside, with an error in the log.
    """

    def __init__(self, directory: Path | None, clock: Callable[[], float] = time.time) -> None:
        self._file = directory / "state.json" if directory else None
        self._clock = clock
        self._models = _read(self._file) if self._file else {}
        if directory:
            _warn_if_unusable(directory)

    def traffic(self, model: str) -> TrafficOverride | None:
        """How an operator splits its requests."""
        return self._state(model).traffic

    def set_traffic(self, model: str, override: TrafficOverride | None) -> None:
        self._store(model, replace(self._state(model), traffic=override))

    def loaded(self, model: str) -> dict[int, float]:
        """The versions that an operator wants loaded, and when that ends, in Unix time."""
        return dict(self._state(model).loaded)

    def set_loaded(self, model: str, version: int, expires_at: float | None) -> None:
        state = self._state(model)
        self._store(model, replace(state, loaded=_with(state.loaded, version, expires_at)))

    def refusals(self, model: str) -> dict[int, Refusal]:
        """The versions that were rolled back."""
        return dict(self._state(model).refusals)

    def set_refusal(self, model: str, version: int, refusal: Refusal | None) -> None:
        state = self._state(model)
        self._store(model, replace(state, refusals=_with(state.refusals, version, refusal)))

    def _state(self, model: str) -> _ModelState:
        return self._models.get(model, _ModelState()).without_expired(self._clock())

    def _store(self, model: str, state: _ModelState) -> None:
        models = {name: self._state(name) for name in self._models} | {model: state}
        models = {name: each for name, each in models.items() if each != _ModelState()}
        if self._file and models != self._models:
            _write(self._file, models)
        self._models = models


def _with(values: Mapping[int, T], version: int, value: T | None) -> dict[int, T]:
    others = {number: each for number, each in values.items() if number != version}
    return others if value is None else {**others, version: value}


def _write(file: Path, models: Mapping[str, _ModelState]) -> None:
    document = {"schema_version": _SCHEMA_VERSION, "models": {name: _encoded(models[name]) for name in sorted(models)}}
    try:
        make_directory(file.parent)
        replace_file(file, json.dumps(document, indent=2).encode() + b"\n")
    except OSError as error:
        raise StateNotWritten(f"the decision cannot be stored: {error}") from error


def _warn_if_unusable(directory: Path) -> None:
    """At the start, while somebody looks at the log."""
    try:
        make_directory(directory)
        with tempfile.TemporaryFile(dir=directory):
            return
    except OSError as error:
        logger.error("--state-dir: operators' decisions will be refused, they cannot be stored: %s", error)


def _read(file: Path) -> dict[str, _ModelState]:
    try:
        return _decoded(json.loads(file.read_bytes()))
    except FileNotFoundError:
        return {}
    except OSError as error:
        logger.error("no decision for this server is known, its state cannot be read: %s", error)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        _set_aside(file, error)
    return {}


def _set_aside(file: Path, error: Exception) -> None:
    aside = file.with_name(f"{file.name}.corrupt")
    logger.error("no decision for this server is known, %s cannot be understood: %r; see %s", file, error, aside)
    try:
        file.replace(aside)
    except OSError as failure:
        logger.error("%s could not be moved aside: %s", file, failure)


def _encoded(state: _ModelState) -> dict[str, Any]:
    return {
        "traffic": _encoded_override(state.traffic) if state.traffic else None,
        "loaded": dict(state.loaded),
        "refusals": {
            version: {"fingerprint": each.fingerprint, "reason": each.reason, "detail": each.detail}
            for version, each in state.refusals.items()
        },
    }


def _encoded_override(override: TrafficOverride) -> dict[str, Any]:
    return {
        "weights": dict(override.weights),
        "expires_at": override.expires_at,
        "reason": override.reason,
        "based_on": None if override.based_on is None else dict(override.based_on),
        "is_rollback": override.is_rollback,
    }


def _decoded(document: Any) -> dict[str, _ModelState]:
    if document["schema_version"] != _SCHEMA_VERSION:
        raise ValueError(f"schema_version {_SCHEMA_VERSION} is expected")
    return {name: _decoded_state(each) for name, each in document["models"].items()}


def _decoded_state(document: Any) -> _ModelState:
    traffic = document["traffic"]
    return _ModelState(
        traffic=None if traffic is None else _decoded_override(traffic),
        loaded={int(version): float(each) for version, each in document["loaded"].items()},
        refusals={int(version): _decoded_refusal(each) for version, each in document["refusals"].items()},
    )


def _decoded_override(document: Any) -> TrafficOverride:
    based_on = document["based_on"]
    return TrafficOverride(
        weights=_decoded_weights(document["weights"]),
        expires_at=float(document["expires_at"]),
        reason=str(document["reason"]),
        based_on=None if based_on is None else _decoded_weights(based_on),
        is_rollback=bool(document["is_rollback"]),
    )


def _decoded_refusal(document: Any) -> Refusal:
    return Refusal(**{name: str(document[name]) for name in ("fingerprint", "reason", "detail")})


def _decoded_weights(document: Any) -> dict[int, int]:
    weights = {int(version): int(weight) for version, weight in document.items()}
    if min(weights.values(), default=0) < 0:
        raise ValueError("a weight is negative")
    return weights
