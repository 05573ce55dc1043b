"""The text of one completion as it streams: decoded, and cut at a stop string."""

from collections.abc import Sequence
from dataclasses import dataclass

from rhapsode_server.text.incremental import IncrementalDecoder
from rhapsode_server.text.stops import StopStrings
from rhapsode_server.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class TextDelta:
    """What a push adds.

    `text` may go out. `matched_stop` is the stop string that ended the completion, told once. `num_tokens_used` counts
    the pushed ids up to the one that completed the stop: all of them without a stop, none after it.
    """

    text: str
    matched_stop: str | None
    num_tokens_used: int


class TextStream:
    """Text, matched stop and tokens used in total do not depend on how the ids are cut into pushes.

    `include_stop` leaves the stop string that ended the completion at the end of the text.

    Tokens that end a completion, such as the end of sequence, are for the caller to see and not to push, unless their
    text is wanted.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        prompt_ids: Sequence[int],
        stop_strings: Sequence[str],
        skip_special_tokens: bool,
        include_stop: bool = False,
    ) -> None:
        self._decoder = IncrementalDecoder(tokenizer, prompt_ids, skip_special_tokens)
        self._stops = StopStrings(stop_strings)
        self._has_stops = bool(stop_strings)
        self._include_stop = include_stop
        self._num_held = 0  # characters decoded that the stop strings hold back
        self._stopped = False

    def push(self, ids: Sequence[int]) -> TextDelta:
        """Add generated ids, any number of them."""
        if self._stopped:
            return TextDelta(text="", matched_stop=None, num_tokens_used=0)
        decoder_before = self._decoder.copy() if self._has_stops else self._decoder
        decoded = self._decoder.push(ids)
        text, stop = self._stops.push(decoded)
        if stop is None:
            self._num_held += len(decoded) - len(text)
            return TextDelta(text=text, matched_stop=None, num_tokens_used=len(ids))
        self._stopped = True
        num_characters = len(text) + len(stop) - self._num_held
        num_tokens = _num_tokens_for(decoder_before, ids, num_characters)
        return TextDelta(text=text + self._kept(stop), matched_stop=stop, num_tokens_used=num_tokens)

    def finish(self) -> TextDelta:
        """What is left when no more ids come. An incomplete character at the end may still complete a stop."""
        if self._stopped:
            return TextDelta(text="", matched_stop=None, num_tokens_used=0)
        self._stopped = True
        text, stop = self._stops.push(self._decoder.finish())
        return TextDelta(text=text + self._kept(stop) + self._stops.finish(), matched_stop=stop, num_tokens_used=0)

    def _kept(self, stop: str | None) -> str:
        return stop if self._include_stop and stop else ""


def _num_tokens_for(decoder: IncrementalDecoder, ids: Sequence[int], num_characters: int) -> int:
    """How many of `ids` it takes to decode `num_characters`, at least one."""
    for num_tokens, token_id in enumerate(ids, 1):
        num_characters -= len(decoder.push([token_id]))
        if num_characters <= 0:
            return num_tokens
    raise AssertionError("the ids decode to fewer characters")
