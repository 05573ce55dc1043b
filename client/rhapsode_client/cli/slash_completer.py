"""Completes the commands of `rhapsode repl` while a person types them."""

from collections.abc import Callable, Iterable, Sequence
from functools import cache

from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document

from rhapsode_client.cli.kinds import SWITCH
from rhapsode_client.cli.settings import SETTINGS
from rhapsode_client.cli.slash import COMMANDS


class SlashCompleter(Completer):
    """Names of commands and settings, their values, models and files; nothing within a prompt."""

    def __init__(self, model_names: Callable[[], list[str]]) -> None:
        self._model_names = cache(model_names)
        self._paths = PathCompleter(expanduser=True)

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        name, space, argument = document.text_before_cursor.partition(" ")
        if not name.startswith("/"):
            return
        if not space:
            yield from _matching(name, [f"/{each}" for each in COMMANDS], [each.help for each in COMMANDS.values()])
        elif name in ("/save", "/load"):
            yield from self._paths.get_completions(Document(argument), complete_event)
        else:
            yield from self._arguments(name, argument)

    def _arguments(self, name: str, argument: str) -> Iterable[Completion]:
        setting, space, value = argument.partition(" ")
        if name == "/model":
            yield from _matching(argument, self._model_names())
        elif name == "/chat":
            yield from _matching(argument, ["off"])
        elif name == "/set" and space:
            yield from _matching(value, self._values(setting))
        elif name in ("/set", "/help"):
            yield from _matching(setting, list(SETTINGS), [each.help for each in SETTINGS.values()])

    def _values(self, setting: str) -> Sequence[str]:
        if setting == "model":
            return self._model_names()
        return ("on", "off") if setting in SETTINGS and SETTINGS[setting].kind is SWITCH else ()


def _matching(typed: str, words: Sequence[str], helps: Sequence[str] = ()) -> Iterable[Completion]:
    for index, word in enumerate(words):
        if word.startswith(typed):
            yield Completion(word, start_position=-len(typed), display_meta=helps[index] if helps else None)
