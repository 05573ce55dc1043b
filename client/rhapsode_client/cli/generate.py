"""`rhapsode generate`: one completion, printed as it is produced."""

import sys
from itertools import chain, islice
from typing import Annotated

import typer

from rhapsode_client import Client, Completion, GenerateOptions, Stream
from rhapsode_client.cli.failures import connected
from rhapsode_client.cli.options import Address, Json, Model, Timeout, Verbose, Version
from rhapsode_client.cli.terminal import as_json, note, read_all, write, write_json


def generate(
    prompt: Annotated[
        str, typer.Argument(metavar="PROMPT", help="What to continue. -: standard input, without its final newline.")
    ],
    stream: Annotated[bool, typer.Option("--stream/--no-stream", help="Print the text as it is produced.")] = True,
    max_new_tokens: Annotated[int | None, typer.Option(metavar="N", help="The most tokens to generate.")] = None,
    temperature: Annotated[
        float | None, typer.Option(metavar="T", help="Divides the logits. 0: always the most likely token.")
    ] = None,
    top_k: Annotated[int | None, typer.Option(metavar="K", help="Draw from the K most likely tokens.")] = None,
    top_p: Annotated[
        float | None, typer.Option(metavar="P", help="Draw from the likeliest tokens that sum to this probability.")
    ] = None,
    seed: Annotated[int | None, typer.Option(metavar="N", help="The same seed gives the same text.")] = None,
    stop: Annotated[list[str] | None, typer.Option(metavar="TEXT", help="End before this text; repeatable.")] = None,
    model: Model = "",
    version: Version = None,
    json: Json = False,
    verbose: Verbose = False,
    address: Address = None,
    timeout: Timeout = None,
) -> None:
    """Continue PROMPT.

    --json prints one object; while streaming, one line each for started, every delta and finished.
    """
    options = GenerateOptions(
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=seed,
        stop=stop or (),
        model=model,
        version=version,
    )
    with connected(address, timeout) as client:
        text = read_all() if prompt == "-" else prompt
        complete = _streamed if stream else _whole
        completion = complete(client, text, options, json=json)
    summarize(completion, verbose=verbose)


def _whole(client: Client, prompt: str, options: GenerateOptions, *, json: bool) -> Completion:
    completion = client.generate(prompt, **options)
    if json:
        write_json(as_json(completion))
    else:
        write(completion.text + _newline(completion.text))
    return completion


def _streamed(client: Client, prompt: str, options: GenerateOptions, *, json: bool) -> Completion:
    with client.stream(prompt, **options) as stream:
        return print_json_lines(stream) if json else print_text(stream)


def print_text(stream: Stream) -> Completion:
    """Prints the text of a stream as it arrives, and the newline that it may lack however it ends."""
    text = ""
    try:
        for delta in stream:
            text = delta.text or text
            write(delta.text)
    finally:
        write(_newline(text))
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


def summarize(completion: Completion, *, verbose: bool = False) -> None:
    """One line about a completion, on standard error, for a person who looks on."""
    if verbose or sys.stderr.isatty():
        note(summary(completion))


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


def _newline(text: str) -> str:
    """What makes `text` end its line."""
    return "\n" if text and not text.endswith("\n") else ""
