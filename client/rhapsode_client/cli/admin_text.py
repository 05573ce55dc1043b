"""What an operator sees of a server, in words."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta

from rhapsode_client import ModelVersion, VersionState
from rhapsode_client.admin import DrainStatus, ModelStatus, Replica, ServerStatus, TrafficOverride, TrafficSource

_READY = (VersionState.READY, VersionState.SERVING)
_SOURCES: Mapping[TrafficSource, str] = {
    TrafficSource.NOTHING: "no version serves",
    TrafficSource.PINNED: "the fleet holds it on a version (alias pinned)",
    TrafficSource.WEIGHTS: "the fleet splits its requests (traffic.json)",
    TrafficSource.FALLBACK: "the version that was decided on cannot serve here now; the one before goes on",
}


def headline(status: ServerStatus) -> str:
    """The server itself."""
    parts = (
        status.server,
        f"release {status.release}",
        f"up {_duration(datetime.now(UTC) - status.started_at)}",
        f"open calls: {status.open_calls}",
        *(["standby ready"] if status.standby_ready else []),
        *(["DRAINED: new calls are refused"] if status.draining else []),
        *_not_ready(status),
    )
    return ", ".join(parts)


def _not_ready(status: ServerStatus) -> Iterator[str]:
    if status.not_ready_because and not status.draining:
        yield f"NOT READY: {status.not_ready_because}"
    elif not status.models:
        yield "no model yet"


def remarks(status: ModelStatus) -> Iterator[str]:
    """What is out of the ordinary with where a model's requests go."""
    if status.override is not None:
        yield f"{status.model.name}: {_override(status.override)}"
        yield from _late(status, status.override)
    elif status.traffic_source in _SOURCES:
        yield f"{status.model.name}: {_SOURCES[status.traffic_source]}"


def decision_lines(status: ModelStatus) -> Iterator[str]:
    """Where a model's requests go, and what is out of the ordinary with that."""
    yield f"{status.model.name}: requests go to {_shares(status.model.traffic) or 'no version'}"
    yield from remarks(status)


def refusals(status: ModelStatus) -> Iterator[str]:
    """Why versions are quarantined."""
    for version in status.model.versions:
        if version.reason:
            yield version_line(status, version.version)


def version_line(status: ModelStatus, version: int) -> str:
    """Where a version of a model stands."""
    states = [_state(each) for each in status.model.versions if each.version == version]
    return f"{status.model.name} {version}: {states[0] if states else VersionState.UNLOADED}"


def drain_line(status: DrainStatus) -> str:
    """Whether the server is in rotation."""
    doing = "drained: new calls are refused" if status.draining else "in rotation"
    return f"{doing}; open calls: {status.open_calls}"


def share(weights: Mapping[int, int], version: int) -> str:
    """Of the requests, in percent; empty: none is meant for it."""
    return f"{100 * weights[version] / (sum(weights.values()) or 1):.3g}%" if version in weights else ""


def process(replica: Replica) -> str:
    """Its id, where it runs, whether it is ready and how often it was started again."""
    name = f"{replica.process_id}@{replica.device}" if replica.ready else "starting"
    return f"{name} (restarts: {replica.restarts})" if replica.restarts else name


def clock(moment: datetime) -> str:
    """The time of day, in UTC as in the server's log."""
    return f"{moment:%H:%M:%S} UTC"


def _shares(weights: Mapping[int, int]) -> str:
    return ", ".join(f"{version} ({share(weights, version)})" for version in weights)


def _override(override: TrafficOverride) -> str:
    until = "until the fleet decides anew, at the latest" if override.until_fleet_decides else "until"
    reason = f": {override.reason}" if override.reason else ""
    end = f"{override.expires_at:%Y-%m-%d} {clock(override.expires_at)}"
    return f"override {_shares(override.weights)} {until} {end}{reason}"


def _late(status: ModelStatus, override: TrafficOverride) -> Iterator[str]:
    """What the move to the override waits for."""
    states = {each.version: each for each in status.model.versions}
    late = [number for number in override.weights if number not in states or states[number].state not in _READY]
    if late:
        waits = (f"{number} is {_state(states[number]) if number in states else 'not loaded yet'}" for number in late)
        yield f"{status.model.name}: traffic moves once all are ready; {', '.join(waits)}"


def _state(version: ModelVersion) -> str:
    return f"{version.state}: {version.reason}" if version.reason else version.state.value


def _duration(passed: timedelta) -> str:
    """In its two largest units."""
    minutes, seconds = divmod(max(0, int(passed.total_seconds())), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    counts = ((days, "d"), (hours, "h"), (minutes, "min"), (seconds, "s"))
    return " ".join([f"{count} {unit}" for count, unit in counts if count][:2]) or "0 s"
