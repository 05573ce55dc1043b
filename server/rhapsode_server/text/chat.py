"""A version's chat template: from a conversation to the text that the model continues.

The template is Jinja, as `transformers` stores it: chat_template.jinja, else `chat_template` in tokenizer_config.json.
It runs in a sandbox and sees what `apply_chat_template` shows it: `messages`, the named special tokens, and the helpers
`raise_exception`, `strftime_now` and `tojson`.
"""

import json
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

_SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")

Turn = Mapping[str, str]
"""`role` and `content`."""


class ChatError(Exception):
    """A conversation cannot be rendered; the text says why, mostly in the template's own words."""


class ChatTemplate:
    """Renders conversations. Any number of threads may use it at once.

    `max_bytes` bounds the rendered text, `max_seconds` the time that it takes, looked at whenever the template writes:
    one that computes without writing is its publisher's to mend. Raises ValueError if `source` is not a template.
    """

    def __init__(
        self, source: str, special_tokens: Mapping[str, str], *, max_bytes: int = 2**20, max_seconds: float = 2.0
    ) -> None:
        try:
            self._template = _ENVIRONMENT.from_string(source)
        except (jinja2.TemplateError, RecursionError, SyntaxError, MemoryError) as error:  # Python's own limits too
            raise ValueError(f"the chat template cannot be read: {error}") from None
        self._special_tokens = dict(special_tokens)
        self._max_bytes = max_bytes
        self._max_seconds = max_seconds

    @classmethod
    def load(cls, path: Path) -> "ChatTemplate | None":
        """The template of the version at `path`; None if it has none. Raises ValueError naming the file at fault."""
        config = _read_config(path / "tokenizer_config.json")
        file = path / "chat_template.jinja"
        try:
            source = file.read_text(encoding="utf-8") if file.is_file() else _default(config.get("chat_template"))
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{file.name} cannot be read: {error}") from None
        return None if source is None else cls(source, _special_tokens(config))

    def render(self, turns: Sequence[Turn]) -> str:
        """The text that ends where the answer begins. Raises ChatError."""
        messages = [dict(turn) for turn in turns]
        parts: list[str] = []
        num_bytes, ends_at = 0, time.monotonic() + self._max_seconds
        try:
            for part in self._template.generate(
                messages=messages, tools=None, documents=None, add_generation_prompt=True, **self._special_tokens
            ):
                parts.append(part)
                num_bytes += len(part.encode())
                self._check(num_bytes, ends_at)
        except ChatError:
            raise
        except Exception as error:  # whatever the template does with what the caller sent
            raise ChatError(_message_of(error)) from None
        return "".join(parts)

    def _check(self, num_bytes: int, ends_at: float) -> None:
        if num_bytes > self._max_bytes:
            raise ChatError(f"the chat template makes more than {self._max_bytes} bytes of it")
        if time.monotonic() > ends_at:
            raise ChatError(f"the chat template takes more than {self._max_seconds:g} s for it")


class _Generation(Extension):
    """`{% generation %} ... {% endgeneration %}` marks what the assistant said, for training: here it is just text."""

    tags = {"generation"}  # noqa: RUF012  (as its base declares it)

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _strftime_now(format: str) -> str:
    return datetime.now().strftime(format)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Unlike Jinja's own it escapes nothing for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _make_dict(*args: Any, **kwargs: Any) -> dict[Any, Any]:
    # In place of the type itself, through which a template could reach others.
    return dict(*args, **kwargs)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    environment.globals.update(raise_exception=_raise_exception, strftime_now=_strftime_now, dict=_make_dict)
    return environment


_ENVIRONMENT = _environment()


def _message_of(error: Exception) -> str:
    if isinstance(error, jinja2.TemplateError):
        return error.message or "the chat template refuses it"
    return f"the chat template cannot render it: {error or type(error).__name__}"


def _default(templates: object) -> str | None:
    """The template that renders plain conversations, of one or of several by name."""
    if isinstance(templates, list):
        named = {each.get("name"): each.get("template") for each in templates if isinstance(each, dict)}
        templates = named.get("default")
    if templates is None or isinstance(templates, str):
        return templates
    raise ValueError("tokenizer_config.json: chat_template is neither a text nor a list of named ones")


def _special_tokens(config: Mapping[str, Any]) -> dict[str, str]:
    """The named special tokens, each given as a text or as an object with its `content`."""
    given = {name: config.get(name) for name in _SPECIAL_TOKENS}
    texts = {name: token.get("content") if isinstance(token, dict) else token for name, token in given.items()}
    return {name: text for name, text in texts.items() if isinstance(text, str)}


def _read_config(file: Path) -> dict[str, Any]:
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{file.name} cannot be read: {error}") from None
    if not isinstance(config, dict):
        raise ValueError(f"{file.name} is not a JSON object")
    return config
