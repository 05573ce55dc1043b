"""The text of one completion as its caller wants it: with the prompt before it, with its stop, post-processed."""

from collections.abc import Sequence

from rhapsode_server.rpc.echo import Echo
from rhapsode_server.rpc.prepare import Prepared
from rhapsode_server.text.stream import TextDelta, TextStream


class CompletionText:
    """Texts of `begin`, `push`, `end` and `finish` concatenate to the whole text."""

    def __init__(self, prepared: Prepared) -> None:
        request, version = prepared.request, prepared.version
        skips = request.output.skip_special_tokens
        self._stream = TextStream(
            version.tokenizer,
            prepared.prompt_ids,
            request.stopping.stop_strings,
            skip_special_tokens=skips,
            include_stop=request.stopping.include_stop,
        )
        self._echo = Echo(version.tokenizer, prepared.prompt_ids, skips) if request.output.echo else None
        self._pipeline = version.postprocess if request.output.postprocess else None
        self._kept: list[str] = []
        self._ended = False

    def begin(self) -> str:
        """The prompt's text, if asked for and not kept to the end."""
        return self._echo.text if self._echo and self._pipeline is None else ""

    def push(self, ids: Sequence[int]) -> TextDelta:
        return self._delta(ids, self._stream.push(ids), is_last=False)

    def end(self) -> TextDelta:
        """No more ids come."""
        self._ended = True
        return self._delta((), self._stream.finish(), is_last=True)

    def finish(self) -> str:
        """What was kept to the end; the pipeline sees the completion alone."""
        rest = "" if self._ended or self._echo is None else self._echo.join((), "", is_last=True)
        if self._pipeline is None:
            return rest
        echo = self._echo.text if self._echo else ""
        return echo + self._pipeline.apply("".join(self._kept) + rest)

    def _delta(self, ids: Sequence[int], delta: TextDelta, *, is_last: bool) -> TextDelta:
        text = self._echo.join(ids, delta.text, is_last=is_last) if self._echo else delta.text
        if self._pipeline is not None:
            self._kept.append(text)
            text = ""
        return TextDelta(text=text, matched_stop=delta.matched_stop, num_tokens_used=delta.num_tokens_used)
