"""How a run is getting on, for programs: `status.json`, JSON lines on standard output, a Prometheus textfile.

The files are replaced atomically, so that a reader sees the old content or the new. They are not made durable: after a
power failure nobody is getting on with anything.
"""

import json
import math
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

_INTERVAL_SECONDS = 1.0
_METRICS = {
    "step": ("rhapsode_train_step", "Optimizer steps done."),
    "total": ("rhapsode_train_steps", "Optimizer steps planned."),
    "eta_seconds": ("rhapsode_train_eta_seconds", "Seconds until the last step, by the rate so far."),
    "tokens_per_second": ("rhapsode_train_tokens_per_second", "Tokens trained on in a second."),
    "loss": ("rhapsode_train_loss", "Loss of the last logged steps, in nats a token."),
    "attempt": ("rhapsode_train_attempt", "Which attempt at this run it is, from 1."),
    "updated": ("rhapsode_train_updated_timestamp_seconds", "Unix time of this report."),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """One moment of a run; what is not known is None. `updated` is Unix time in seconds."""

    key: str
    phase: str
    attempt: int
    pid: int
    updated: float
    step: int | None = None
    total: int | None = None
    eta_seconds: float | None = None
    tokens_per_second: float | None = None
    loss: float | None = None


class Status:
    """Writes snapshots to `path`, to `stream` as JSON lines, and to `textfile` for Prometheus (each optional).

    A phase is written at once, steps at most once a second. What the disk refuses is left out: a run does not fail
    because nobody could be told about it.
    """

    def __init__(
        self,
        path: Path | None,
        *,
        key: str,
        stream: TextIO | None = None,
        textfile: Path | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._path = path
        self._stream = stream
        self._textfile = textfile
        self._clock = clock
        self.snapshot = Snapshot(key=key, phase="start", attempt=_attempt(path, key), pid=os.getpid(), updated=clock())
        self._write()

    def phase(self, name: str) -> None:
        """The run enters a phase, or ends: `published`, `skipped`, `refused`, `interrupted`, `failed`."""
        self._set(phase=name)

    def step(
        self, done: int, total: int, loss: float | None, *, eta_seconds: float | None, tokens_per_second: float | None
    ) -> None:
        """So many optimizer steps of `total` are done; the loss is that of the last logged steps, in nats a token."""
        if done < total and self._clock() - self.snapshot.updated < _INTERVAL_SECONDS:
            return
        known = self.snapshot.loss if loss is None else loss
        self._set(
            step=done,
            total=total,
            loss=known if known is None or math.isfinite(known) else None,
            eta_seconds=eta_seconds,
            tokens_per_second=tokens_per_second,
        )

    def _set(self, **changes: object) -> None:
        self.snapshot = replace(self.snapshot, updated=self._clock(), **changes)  # type: ignore[arg-type]
        self._write()

    def _write(self) -> None:
        line = json.dumps(asdict(self.snapshot), allow_nan=False)
        if self._stream is not None:
            with suppress(OSError):
                print(_as_line(self.snapshot), file=self._stream, flush=True)
        _replace(self._path, line + "\n")
        _replace(self._textfile, _as_metrics(self.snapshot))


def _attempt(path: Path | None, key: str) -> int:
    """One more than the last attempt at the same run, if that did not get to its end."""
    try:
        last = json.loads(path.read_bytes()) if path is not None else {}
        again = last["key"] == key and last["phase"] not in ("published", "refused", "skipped")
        return int(last["attempt"]) + 1 if again else 1
    except (OSError, ValueError, TypeError, KeyError):
        return 1


def _as_line(snapshot: Snapshot) -> str:
    known = {name: value for name, value in asdict(snapshot).items() if value is not None and name != "updated"}
    stamp = datetime.fromtimestamp(snapshot.updated, UTC).isoformat(timespec="milliseconds")
    return json.dumps({"time": stamp, **known}, allow_nan=False)


def _as_metrics(snapshot: Snapshot) -> str:
    lines = [
        "# HELP rhapsode_train_phase The phase that the run is in.",
        "# TYPE rhapsode_train_phase gauge",
        f'rhapsode_train_phase{{phase="{snapshot.phase}"}} 1',
    ]
    for field, (name, meaning) in _METRICS.items():
        value = getattr(snapshot, field)
        if value is not None:
            lines += [f"# HELP {name} {meaning}", f"# TYPE {name} gauge", f"{name} {value!r}"]
    return "\n".join(lines) + "\n"


def _replace(path: Path | None, text: str) -> None:
    if path is None:
        return
    # Prometheus reads every *.prom of a folder: the name of what is being written must not end so.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    except OSError:
        with suppress(OSError):
            temporary.unlink()
