"""`rhapsode generate`: one completion, printed as it is produced."""

from typing import Annotated

import typer

from rhapsode_client import ChatMessage, Client, Completion, GenerateOptions, Prompt
from rhapsode_client.cli.failures import connected
from rhapsode_client.cli.options import Json, Verbose
from rhapsode_client.cli.printing import newline, print_json_lines, print_logprobs, print_text, summarize
from rhapsode_client.cli.settings import takes_settings
from rhapsode_client.cli.target import Target
from rhapsode_client.cli.terminal import as_json, read_all, write, write_json


@takes_settings
def generate(
    prompt: Annotated[
        str, typer.Argument(metavar="PROMPT", help="What to continue. -: standard input, without its final newline.")
    ],
    stream: Annotated[bool, typer.Option("--stream/--no-stream", help="Print the text as it is produced.")] = True,
    chat: Annotated[
        bool, typer.Option("--chat", help="PROMPT is a message to answer; the model needs a chat template.")
    ] = False,
    system: Annotated[
        str | None, typer.Option(metavar="TEXT", help="The system message before PROMPT; implies --chat.")
    ] = None,
    json: Json = False,
    verbose: Verbose = False,
    *,
    options: GenerateOptions,
    target: Target,
) -> None:
    """Continue PROMPT.

    --json prints one object; while streaming, one line each for started, every delta and finished.
    """
    with connected(target) as client:
        text = read_all() if prompt == "-" else prompt
        asked = _conversation(system, text) if chat or system is not None else text
        complete = _streamed if stream else _whole
        completion = complete(client, asked, options, json=json)
    if not json:
        print_logprobs(completion)
    summarize(completion, verbose=verbose)


def _conversation(system: str | None, text: str) -> list[ChatMessage]:
    before = [] if system is None else [ChatMessage("system", system)]
    return [*before, ChatMessage("user", text)]


def _whole(client: Client, prompt: Prompt, options: GenerateOptions, *, json: bool) -> Completion:
    completion = client.generate(prompt, **options)
    if json:
        write_json(as_json(completion))
    else:
        write(completion.text + newline(completion.text))
    return completion


def _streamed(client: Client, prompt: Prompt, options: GenerateOptions, *, json: bool) -> Completion:
    with client.stream(prompt, **options) as stream:
        return print_json_lines(stream) if json else print_text(stream)
