"""How a completion is shown: its text as it arrives, its log-probabilities, and a line that sums it up."""

import json
import math
import sys
from collections.abc import Sequence
from itertools import chain, islice

from rhapsode_client import Completion, Stream, TokenLogprob
from rhapsode_client.cli.tables import print_table
from rhapsode_client.cli.terminal import as_json, note, write, write_json


def print_text(stream: Stream) -> Completion:
    """Prints the text of a stream as it arrives, and the newline that it may lack however it ends."""
    text = ""
    try:
        for delta in stream:
            text = delta.text or text
            write(delta.text)
    finally:
        write(newline(text))
    return stream.result()


def print_json_lines(stream: Stream) -> Completion:
    """Prints each event of a stream as a line of JSON; the last one is the whole completion."""
    first = list(islice(stream, 1))
    assert stream.started is not None
    write_json(as_json(stream.started, event="started"))
    for delta in chain(first, stream):
        write_json(as_json(delta, event="delta"))
    completion = stream.result()
    write_json(as_json(completion, event="finished"))
    return completion


def print_logprobs(completion: Completion) -> None:
    """A table of the tokens and how likely each was, where they were asked for; those of the prompt first."""
    for title, tokens in (("token of the prompt", completion.prompt_logprobs), ("token", completion.logprobs)):
        if tokens:
            write("\n")
            print_table(
                (title, "probability", "rank", "likeliest there"), map(_row, tokens), numbers=("probability", "rank")
            )


def _row(token: TokenLogprob) -> Sequence[str]:
    likeliest = ", ".join(f"{quoted(each.text)} {_percent(each.logprob)}" for each in token.candidates)
    return quoted(token.text), _percent(token.logprob), str(token.rank or ""), likeliest


def quoted(text: bytes) -> str:
    """The text of a token between quotation marks: spaces can be seen, bytes that are no character are \\x.."""
    shown = json.dumps(text.decode("utf-8", "surrogateescape"), ensure_ascii=False)
    return shown.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _percent(logprob: float | None) -> str:
    return "" if logprob is None else f"{100 * math.exp(logprob):.3g}%"


def summarize(completion: Completion, *, verbose: bool = False) -> None:
    """One line about a completion, on standard error, for a person who looks on."""
    if verbose or sys.stderr.isatty():
        note(summary(completion), faint=True)


def summary(completion: Completion) -> str:
    """Model, tokens, seed, finish reason, time to first token and rate."""
    timings, tokens = completion.timings, completion.usage.completion_tokens
    parts = [
        f"{completion.model} version {completion.version}",
        f"{completion.usage.prompt_tokens} + {tokens} tokens",
        f"seed {completion.seed}",
        completion.finish_reason.value,
    ]
    if timings.first_token is not None:
        parts.append(f"first token {timings.first_token * 1000:.0f} ms")
    if timings.total > 0:
        parts.append(f"{tokens / timings.total:.0f} tokens/s")
    return f"[{', '.join(parts)}]"


def newline(text: str) -> str:
    """What makes `text` end its line."""
    return "\n" if text and not text.endswith("\n") else ""
