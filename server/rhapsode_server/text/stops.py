"""Stop strings, found wherever they fall in a text that arrives in parts.

An automaton after Aho and Corasick ("Efficient string matching", 1975): after each character its state is the longest
suffix of the text that is a prefix of some stop string. The state's depth is therefore exactly what must be held back.
"""

import re
from collections import deque
from collections.abc import Iterator, Sequence
from functools import lru_cache


class StopStrings:
    """Watches a text for the first of `stops` to end; of several that end there, the one that starts earliest.

    Raises ValueError if a stop string is empty.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._automaton = _automaton(tuple(stops))
        self._state = 0
        self._held = ""
        self._matched = False

    def push(self, text: str) -> tuple[str, str | None]:
        """What may go out now, and the stop that matched, once. What follows a match is dropped."""
        if self._matched:
            return "", None
        automaton, state, at = self._automaton, self._state, 0
        while (at := at if state else automaton.next_start(text, at)) < len(text):
            state = automaton.next_state(state, text[at])
            at += 1
            if (stop := automaton.matches[state]) is not None:
                self._matched = True
                return (self.finish() + text[:at])[: -len(stop)], stop
        self._state = state
        buffer = self._held + text
        cut = len(buffer) - automaton.depths[state]
        self._held = buffer[cut:]
        return buffer[:cut], None

    def finish(self) -> str:
        """The tail held back, when no more text comes."""
        tail, self._held = self._held, ""
        return tail


class _Automaton:
    """Immutable. State 0 is the empty prefix. `matches` has the longest stop that ends in a state, `depths` the prefix
    lengths."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._children: list[dict[str, int]] = [{}]
        self._fallbacks = [0]
        self.depths = [0]
        self.matches: list[str | None] = [None]
        for stop in stops:
            if not stop:
                raise ValueError("stop_strings: a stop string must not be empty")
            self._add(stop)
        self._link()
        self._starts = re.compile("[" + re.escape("".join(self._children[0])) + "]") if stops else None

    def next_start(self, text: str, at: int) -> int:
        """Where from `at` on a stop may begin: most characters of a text need no look at the states."""
        found = self._starts.search(text, at) if self._starts else None
        return found.start() if found else len(text)

    def next_state(self, state: int, character: str) -> int:
        while character not in self._children[state]:
            if state == 0:
                return 0
            state = self._fallbacks[state]
        return self._children[state][character]

    def _add(self, stop: str) -> None:
        state = 0
        for character in stop:
            child = self._children[state].setdefault(character, len(self._children))
            if child == len(self._children):
                self._children.append({})
                self._fallbacks.append(0)
                self.depths.append(self.depths[state] + 1)
                self.matches.append(None)
            state = child
        self.matches[state] = stop

    def _link(self) -> None:
        """Point every state to its longest proper suffix that is a state; shorter states first, as theirs are used."""
        for state, character, child in self._edges_by_depth():
            if state != 0:
                self._fallbacks[child] = self.next_state(self._fallbacks[state], character)
            if self.matches[child] is None:
                self.matches[child] = self.matches[self._fallbacks[child]]

    def _edges_by_depth(self) -> Iterator[tuple[int, str, int]]:
        queue = deque([0])
        while queue:
            state = queue.popleft()
            for character, child in self._children[state].items():
                queue.append(child)
                yield state, character, child


@lru_cache(maxsize=16)
def _automaton(stops: tuple[str, ...]) -> _Automaton:
    """Completions of one item of a batch share theirs."""
    return _Automaton(stops)
