"""What a person types at the prompt of `rhapsode repl`, or what a pipe holds: prompts and commands, one at a time."""

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rhapsode_client.cli.session import Session

if TYPE_CHECKING:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.history import History
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

BLOCK = '"""'
"""Lines between two of these are one prompt, whatever they begin with."""


def blocks(lines: Iterable[str]) -> Iterator[tuple[str, bool]]:
    """The entries in `lines`, and whether each may be a command."""
    lines = iter(lines)
    for line in lines:
        if line.startswith(BLOCK):
            yield _block(line.removeprefix(BLOCK), lines), False
        else:
            yield line, line.startswith("/")


def _block(first: str, lines: Iterator[str]) -> str:
    """To the line that ends with the mark, or the end of all lines. Marks may stand on lines of their own."""
    gathered = first.split("\n")
    while not gathered[-1].endswith(BLOCK):
        if (line := next(lines, None)) is None:
            break
        gathered += line.split("\n")
    return "\n".join(gathered).removesuffix(BLOCK).removeprefix("\n").removesuffix("\n")


def typed_lines(session: Session, model_names: Callable[[], list[str]]) -> Iterator[str]:
    """What a person types, with editing and history, until Ctrl-D."""
    prompts = _prompts(session, model_names)
    while True:
        try:
            yield prompts.prompt()
        except KeyboardInterrupt:
            continue
        except EOFError:
            return


def _prompts(session: Session, model_names: Callable[[], list[str]]) -> "PromptSession[str]":
    from prompt_toolkit import PromptSession

    from rhapsode_client.cli.slash_completer import SlashCompleter

    return PromptSession(
        lambda: "> " if session.messages is None else "chat> ",
        history=_history(),
        completer=SlashCompleter(model_names),
        complete_while_typing=False,
        complete_in_thread=True,
        multiline=True,
        prompt_continuation="... ",
        key_bindings=_keys(),
    )


def _keys() -> "KeyBindings":
    """Enter sends; Alt-Enter begins a new line."""
    from prompt_toolkit.key_binding import KeyBindings

    keys = KeyBindings()

    @keys.add("enter")
    def _(event: "KeyPressEvent") -> None:
        event.current_buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def _(event: "KeyPressEvent") -> None:
        event.current_buffer.insert_text("\n")

    return keys


def _history() -> "History":
    """Kept between sessions where the home folder can be written, else for this one."""
    from prompt_toolkit.history import FileHistory, InMemoryHistory

    folder = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "rhapsode"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "history").touch()
    except OSError:
        return InMemoryHistory()
    return FileHistory(folder / "history")
