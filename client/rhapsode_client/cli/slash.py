"""The commands of `rhapsode repl`: lines that begin with a slash."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from rhapsode_client.cli.session import Session, setting_of
from rhapsode_client.cli.settings import SETTINGS
from rhapsode_client.cli.terminal import note

INTRODUCTION = """\
Type a prompt to have it continued. Alt-Enter begins a new line; so do lines between two of \"""."""
KEYS = """\
Ctrl-C stops the text under way, Ctrl-D leaves; arrows and Ctrl-R go through what was typed before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlashCommand:
    """One of the commands."""

    run: Callable[[Session, str], str | None]
    """Takes what stands after the name; returns a text to be continued, if there is one. ValueError: a mistake."""
    arguments: str
    help: str


def carried_out(session: Session, line: str) -> str | None:
    """Carries out a line that begins with a slash; returns what is to be continued, or None.

    Raises ValueError, with a text for the person who typed it.
    """
    name, _, argument = line.strip().removeprefix("/").partition(" ")
    if name not in COMMANDS:
        raise ValueError(f"no such command: /{name}; /help lists them")
    return COMMANDS[name].run(session, argument.strip())


def _help(_: Session, topic: str) -> None:
    name = topic.removeprefix("/")
    if not topic:
        note("\n".join([INTRODUCTION, *_table(_usages()), KEYS]))
    elif name == "set":
        note("\n".join(_table({each: SETTINGS[each].help for each in SETTINGS})))
    elif name in COMMANDS:
        note(f"/{name} {COMMANDS[name].arguments}: {COMMANDS[name].help}")
    else:
        setting = setting_of(topic)
        note(f"{setting.name}: {setting.help}")


def _usages() -> dict[str, str]:
    return {f"/{name} {command.arguments}": command.help for name, command in COMMANDS.items()}


def _table(rows: Mapping[str, str]) -> Iterator[str]:
    width = max(map(len, rows))
    return (f"  {name:{width}}  {text}" for name, text in rows.items())


def _set(session: Session, argument: str) -> None:
    name, _, value = argument.partition(" ")
    if not name:
        _show(session)
    elif value:
        session.set(name, value.strip())
    else:
        session.unset(name)


def _seed(session: Session, argument: str) -> None:
    _set(session, f"seed {argument}".strip())


def _model(session: Session, argument: str) -> None:
    name, mark, which = _split_model(argument)
    chosen = Session(session.generate_options)
    chosen.unset("model", "version", "alias")
    if name:
        chosen.set("model", name)
    if mark:
        chosen.set("version" if mark == "@" else "alias", which)
    session.options = chosen.options


def _split_model(argument: str) -> tuple[str, str, str]:
    return argument.partition("@") if "@" in argument else argument.partition(":")


def _chat(session: Session, argument: str) -> None:
    if argument == "off":
        session.messages = None
        note("prompts are continued, each for itself")
    else:
        session.begin_chat(argument)
        note("a new conversation; /chat off ends it")


def _more(session: Session, _: str) -> str:
    if session.messages is not None:
        raise ValueError("/more continues a text; in a conversation, ask for more")
    return session.written()


def _save(session: Session, argument: str) -> None:
    path = _path(argument)
    session.save(path)
    note(f"saved to {path}")


def _load(session: Session, argument: str) -> None:
    path = _path(argument)
    session.load(path)
    note(f"{len(session.turns)} turns from {path}")
    _show(session)


def _path(argument: str) -> Path:
    if not argument:
        raise ValueError("say which file")
    return Path(argument).expanduser()


def _reset(session: Session, _: str) -> None:
    session.reset()
    note("every setting is the server's")


def _show(session: Session, _: str = "") -> None:
    lines = [f"{name} = {value}" for name, value in session.shown().items()] or ["every setting is the server's"]
    if session.messages is not None:
        lines += [f"{message.role}: {message.content}" for message in session.messages] or ["an empty conversation"]
    elif session.turns:
        last = session.turns[-1]
        lines.append(f"last text: {last.model} version {last.version}, seed {last.seed}")
    note("\n".join(lines))


def _quit(session: Session, _: str) -> None:
    session.ended = True


COMMANDS: Mapping[str, SlashCommand] = {
    "set": SlashCommand(run=_set, arguments="NAME [VALUE]", help="change a setting, or back to its default"),
    "seed": SlashCommand(run=_seed, arguments="[N]", help="the same text each time; without N a new one"),
    "model": SlashCommand(run=_model, arguments="[NAME]", help="ask this model; also NAME@VERSION, NAME:ALIAS"),
    "show": SlashCommand(run=_show, arguments="", help="show the settings and the conversation"),
    "more": SlashCommand(run=_more, arguments="", help="continue the last text where it ended"),
    "chat": SlashCommand(run=_chat, arguments="[SYSTEM|off]", help="talk with a model that has a chat template"),
    "save": SlashCommand(run=_save, arguments="FILE", help="write settings, conversation and texts to a file"),
    "load": SlashCommand(run=_load, arguments="FILE", help="go on from such a file"),
    "reset": SlashCommand(run=_reset, arguments="", help="forget settings, conversation and texts"),
    "help": SlashCommand(run=_help, arguments="[WHAT]", help="this text, or about a command or setting"),
    "quit": SlashCommand(run=_quit, arguments="", help="leave"),
}
