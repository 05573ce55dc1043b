"""What was sent, how it ended for its caller, and what the server says of it in its log and in its counters."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

# How a call may have ended for the server, by how it ended for its caller, who may give up at any moment.
MAY_BE = {
    "ok": {"ok"},
    "partly": {"ok"},
    "unavailable": {"unavailable"},
    "overloaded": {"overloaded"},
    "cancelled": {"cancelled", "ok", "unavailable"},
    "deadline": {"deadline", "cancelled", "ok", "overloaded", "unavailable"},
}


@dataclass(slots=True)
class Entry:
    """A call: how it ended for its caller, how many tokens it received, and whether the server is sure to know it."""

    method: str
    model: str
    outcome: str = ""
    num_tokens: int = 0
    was_heard: bool = True


@dataclass(slots=True, repr=False)
class Ledger:
    """Calls by request id. After `settle` they are forgotten; the totals stay."""

    entries: dict[str, Entry] = field(default_factory=dict)
    lines: dict[str, list[dict[str, object]]] = field(default_factory=dict)
    sent: Counter[str] = field(default_factory=Counter)
    """Calls by how they ended for their callers."""
    logged: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Lines in the log by method and outcome."""
    generated: Counter[str] = field(default_factory=Counter)
    """Tokens by model, as the log has it."""
    _num_ids: int = 0

    def open(self, method: str, model: str) -> tuple[str, Entry]:
        self._num_ids += 1
        request_id = f"soak-{self._num_ids}"
        entry = self.entries[request_id] = Entry(method, model)
        return request_id, entry

    def read(self, log: Iterable[str]) -> None:
        """Take over the lines of calls."""
        for line in log:
            if not line.startswith("{") or '"soak-' not in line:
                continue
            fields = json.loads(line)
            if fields["message"] == "request":
                self._note(fields)

    def open_ends(self) -> list[str]:
        """Calls of which the log has yet to tell."""
        return [id_ for id_, entry in self.entries.items() if entry.was_heard and not self.lines.get(id_)]

    def settle(self) -> list[str]:
        """What does not add up; then all of it is forgotten."""
        wrong = [*self._wrong()]
        for id_, entry in self.entries.items():
            self.sent[entry.outcome] += 1
            self.generated[entry.model] += sum(map(_num_tokens, self.lines.get(id_, [])))
        self.entries.clear()
        self.lines.clear()
        return wrong

    def _note(self, fields: dict[str, object]) -> None:
        self.lines.setdefault(str(fields["request_id"]), []).append(fields)
        self.logged[str(fields["method"]), str(fields["outcome"])] += 1

    def _wrong(self) -> Iterator[str]:
        for id_ in self.lines.keys() - self.entries.keys():
            yield f"{id_}: the log tells of a call that nobody made, or made before: {self.lines[id_]}"
        for id_, entry in self.entries.items():
            lines = self.lines.get(id_, [])
            if len(lines) > 1 or (entry.was_heard and not lines):
                yield f"{id_}: {len(lines)} lines for {entry}"
            for line in lines:
                yield from self._faults(id_, entry, line)

    def _faults(self, id_: str, entry: Entry, line: dict[str, object]) -> Iterator[str]:
        is_wrong = line["method"] != entry.method or line["outcome"] not in MAY_BE.get(entry.outcome, ())
        num_tokens = _num_tokens(line)
        if is_wrong or entry.num_tokens > num_tokens or (entry.outcome == "ok" and entry.num_tokens != num_tokens):
            yield f"{id_}: {entry}, and the log says {line}"


def _num_tokens(line: dict[str, object]) -> int:
    return int(str(line.get("generated_tokens", 0)))
