"""What holds from one prompt of a `rhapsode repl` to the next."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from rhapsode_client import ChatMessage, Completion, GenerateOptions, Prompt
from rhapsode_client.cli.settings import EXCLUSIVE, SETTINGS, Setting


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """A prompt and what became of it. The seed gives the same text again."""

    prompt: str
    text: str
    model: str
    version: int
    seed: int


class Session:
    """Settings, conversation and what was written so far. A ValueError says what is wrong with what was typed."""

    def __init__(self, options: GenerateOptions | None = None) -> None:
        self.options: dict[str, Any] = dict(options or {})
        self.messages: list[ChatMessage] | None = None
        """The conversation so far; None: prompts are continued, each for itself."""
        self.turns: list[Turn] = []
        self.ended = False

    def set(self, name: str, text: str) -> None:
        """Changes a setting; what cannot stand beside it goes."""
        setting = setting_of(name)
        try:
            value = setting.kind.parse(text)
        except ValueError as error:
            raise ValueError(f"{setting.name} {error}") from None
        for group in EXCLUSIVE:
            if setting.name in group:
                self.unset(*group)
        self.options[setting.name] = value

    def unset(self, *names: str) -> None:
        """Back to the server's defaults."""
        for name in names:
            self.options.pop(setting_of(name).name, None)

    def shown(self) -> dict[str, str]:
        """The settings, as they may be typed again."""
        return {name: SETTINGS[name].kind.show(value) for name, value in self.options.items()}

    def asked(self, text: str) -> Prompt:
        """What the server is to complete when a person types `text`."""
        return text if self.messages is None else [*self.messages, ChatMessage("user", text)]

    def begin_chat(self, system: str = "") -> None:
        """A new conversation, with a system message if there is a text for it."""
        self.messages = [ChatMessage("system", system)] if system else []

    def answered(self, text: str, completion: Completion) -> None:
        """Remembers a completion of `text`."""
        if self.messages is not None:
            self.messages += [ChatMessage("user", text), ChatMessage("assistant", completion.text)]
        self.turns.append(
            Turn(
                prompt=text,
                text=completion.text,
                model=completion.model,
                version=completion.version,
                seed=completion.seed,
            )
        )

    def written(self) -> str:
        """The last prompt with its completion."""
        if not self.turns:
            raise ValueError("nothing is written yet")
        return self.turns[-1].prompt + self.turns[-1].text

    def reset(self) -> None:
        """As it began, without any setting."""
        self.options, self.messages, self.turns = {}, None, []

    def save(self, path: Path) -> None:
        """Writes everything to a file of JSON."""
        messages = None if self.messages is None else [_fields(each) for each in self.messages]
        saved = {"settings": self.shown(), "messages": messages, "turns": [_fields(each) for each in self.turns]}
        try:
            path.write_text(json.dumps(saved, ensure_ascii=False, indent=2) + "\n", "utf-8")
        except OSError as error:
            raise ValueError(f"cannot write {path}: {error.strerror}") from None

    def load(self, path: Path) -> None:
        """Goes on from what `save` wrote; on a ValueError nothing has changed."""
        try:
            saved = json.loads(path.read_text("utf-8"))
            settings = Session()
            for name, text in saved["settings"].items():
                settings.set(name, text)
            messages = saved["messages"]
            read = None if messages is None else [ChatMessage(**each) for each in messages]
            turns = [Turn(**each) for each in saved["turns"]]
        except OSError as error:
            raise ValueError(f"cannot read {path}: {error.strerror}") from None
        except (ValueError, TypeError, KeyError, AttributeError):
            raise ValueError(f"{path} is no session that /save wrote") from None
        self.options, self.messages, self.turns = settings.options, read, turns

    @property
    def generate_options(self) -> GenerateOptions:
        """The settings as arguments of a call."""
        return cast(GenerateOptions, self.options)


def setting_of(name: str) -> Setting:
    """By its name, with underscores or hyphens, or by its option."""
    known = name.removeprefix("--").replace("-", "_")
    if known not in SETTINGS:
        raise ValueError(f"no such setting: {name}; /help set lists them")
    return SETTINGS[known]


def _fields(value: Turn | ChatMessage) -> Mapping[str, object]:
    return {name: getattr(value, name) for name in value.__slots__}
