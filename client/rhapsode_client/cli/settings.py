"""What may be said about a completion: options of commands, settings of a session."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, cast

import typer

from rhapsode_client import GenerateOptions
from rhapsode_client.cli.complete import complete_model
from rhapsode_client.cli.kinds import BIASES, IDS, INTEGER, NUMBER, SECONDS, SOURCE, SWITCH, TEXTS, WORD, Kind
from rhapsode_client.cli.parameters import gathers


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One of `GenerateOptions`."""

    name: str
    kind: Kind
    metavar: str
    help: str
    group: str
    """The title under which help screens list it."""
    flag: str = ""
    """Its option, if that is not --name."""

    @property
    def option(self) -> Any:
        """What typer makes the option of."""
        details: dict[str, Any] = {"help": self.help, "rich_help_panel": self.group, "show_default": False}
        flag = self.flag or f"--{self.name.replace('_', '-')}"
        if self.kind is SWITCH:
            return Annotated[bool | None, typer.Option(flag, **details)]
        if self.kind is TEXTS:
            return Annotated[list[str] | None, typer.Option(flag, metavar=self.metavar, **details)]
        completion = complete_model if self.name == "model" else None
        parse = _told(self.kind.parse)
        return Annotated[
            str | None, typer.Option(flag, metavar=self.metavar, parser=parse, autocompletion=completion, **details)
        ]


def _told(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    def told(text: str) -> Any:
        try:
            return parse(text)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None

    return told


_SPECIAL_TOKENS = "--skip-special-tokens/--keep-special-tokens"
_Row = tuple[str, Kind, str, str] | tuple[str, Kind, str, str, str]

_TABLE: Mapping[str, tuple[_Row, ...]] = {
    "Model": (
        ("model", WORD, "NAME", "Which model. Default: the only one, else the server's default."),
        ("version", INTEGER, "N", "Which version of the model. Default: the alias champion."),
        ("alias", WORD, "NAME", "The version that has this alias, such as previous."),
    ),
    "Sampling (default: the version's own)": (
        ("temperature", NUMBER, "T", "Divides the logits. 0: always the most likely token."),
        ("top_k", INTEGER, "K", "Draw from the K most likely tokens."),
        ("top_p", NUMBER, "P", "Draw from the likeliest tokens that sum to this probability."),
        ("min_p", NUMBER, "P", "Draw from tokens at least P times as probable as the likeliest."),
        ("typical_p", NUMBER, "P", "Draw from the most typical tokens that sum to this probability."),
        ("repetition_penalty", NUMBER, "X", "Above 1: tokens of prompt and text become less likely."),
        ("presence_penalty", NUMBER, "X", "Taken from the logits of tokens that occur in the text."),
        ("frequency_penalty", NUMBER, "X", "The same, for each time that they occur."),
        ("logit_bias", BIASES, "ID=X,...", "Added to the logits of these tokens."),
        ("allowed_token_ids", IDS, "ID,...", "The only tokens that may be drawn."),
        ("banned_words", TEXTS, "TEXT", "Never write this word; repeatable.", "--banned-word"),
        ("seed", INTEGER, "N", "The same seed gives the same text."),
    ),
    "Stopping": (
        ("max_new_tokens", INTEGER, "N", "The most tokens to generate."),
        ("min_new_tokens", INTEGER, "N", "The fewest tokens before an end token may be drawn."),
        ("stop", TEXTS, "TEXT", "End before this text; repeatable."),
        ("stop_token_ids", IDS, "ID,...", "End at one of these tokens."),
        ("include_stop", SWITCH, "", "Leave the stop that ended the text in it."),
        ("ignore_eos", SWITCH, "", "Go on when the end-of-sequence token is drawn."),
        ("time_limit", SECONDS, "SECONDS", "End so long after the call has arrived, with what there is."),
    ),
    "Form of the text (one of them)": (
        ("json_schema", SOURCE, "JSON|@FILE", "A JSON document of this schema; {}: any JSON."),
        ("regex", WORD, "REGEX", "A text that this regular expression matches, all of it."),
        ("choices", TEXTS, "TEXT", "One of these texts; repeatable.", "--choice"),
        ("grammar", SOURCE, "GBNF|@FILE", "A text of this grammar; it begins with root."),
    ),
    "Output": (
        ("echo", SWITCH, "", "Begin with the text of the prompt."),
        ("postprocess", SWITCH, "", "Apply the version's own post-processing to the whole text."),
        ("skip_special_tokens", SWITCH, "", "Leave out special tokens. The default.", _SPECIAL_TOKENS),
        ("token_ids", SWITCH, "", "Return the ids of the tokens too; see --json."),
        ("logprobs", SWITCH, "", "Show how likely each token was."),
        ("top_logprobs", INTEGER, "N", "Show the N likeliest tokens of each place too."),
        ("prompt_logprobs", SWITCH, "", "Show how likely the tokens of the prompt were."),
    ),
    "Request": (
        ("truncate_prompt", SWITCH, "", "Cut a prompt that is too long at its beginning."),
        ("priority", INTEGER, "N", "Higher goes first among those that wait, -100 to 100."),
        ("request_id", WORD, "TEXT", "Your name for the request, for logs and answers."),
    ),
}


def _settings() -> Iterator[Setting]:
    for group, rows in _TABLE.items():
        for name, kind, metavar, help, *flag in rows:
            yield Setting(name=name, kind=kind, metavar=metavar, help=help, group=group, flag="".join(flag))


SETTINGS: Mapping[str, Setting] = {setting.name: setting for setting in _settings()}
"""All of them, by name."""

EXCLUSIVE: tuple[frozenset[str], ...] = (
    frozenset({"version", "alias"}),
    frozenset({"json_schema", "regex", "choices", "grammar"}),
)
"""Of these only one may be said at a time."""


def takes_settings(command: Callable[..., None]) -> Callable[..., None]:
    """`command` with an option for each setting; it gets those that were given together, as `options`."""
    return gathers(command, "options", {name: each.option for name, each in SETTINGS.items()}, _given)


def _given(options: Mapping[str, Any]) -> GenerateOptions:
    return cast(GenerateOptions, {name: value for name, value in options.items() if value not in (None, [])})
