"""What to continue: from a text, token ids or a conversation to the ids that the model sees.

Whatever takes long goes to a thread, so that the event loop stays with its streams.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from rhapsode.v1.generation_pb2 import GenerateRequest, Messages

from rhapsode_server.errors import FieldViolation, InvalidRequest
from rhapsode_server.models.limits import Limits
from rhapsode_server.models.served import ServedVersion
from rhapsode_server.rpc.requests import fields
from rhapsode_server.rpc.requests.fields import Violations
from rhapsode_server.rpc.threads import in_thread
from rhapsode_server.text.chat import ChatError, Turn
from rhapsode_server.text.tokenizer import Tokenizer

# A text of so many characters is tokenised within a millisecond or two.
_QUICK_LENGTH = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A text, or token ids, or the turns of a conversation; `field` is where it stood in the request."""

    field: str
    text: str = ""
    ids: tuple[int, ...] | None = None
    turns: tuple[Turn, ...] | None = None


def violations(message: GenerateRequest, version: ServedVersion) -> Violations:
    limits = version.limits
    match message.WhichOneof("input"):
        case None:
            description = "is missing; give a prompt, which may be empty, prompt_token_ids or messages"
            yield FieldViolation("prompt", description)
        case "prompt":
            yield from text_violations(message.prompt, "prompt", limits)
        case "prompt_token_ids":
            ids = message.prompt_token_ids.ids
            if message.truncate_prompt and len(ids) > limits.max_text_bytes:
                yield from fields.too_many("prompt_token_ids", len(ids), limits.max_text_bytes, " ids")
            elif not message.truncate_prompt and len(ids) > limits.context_length:
                yield _too_long("prompt_token_ids", len(ids), limits)
            else:
                yield from fields.unknown_token_id(ids, "prompt_token_ids.ids", limits.vocabulary_size)
        case "messages":
            yield from _chat_violations(message.messages, version)


def prompt(message: GenerateRequest, limits: Limits) -> Prompt:
    """Of token ids only those that the context has room for: there are more only where the first are cut off."""
    match message.WhichOneof("input"):
        case "prompt_token_ids":
            ids = message.prompt_token_ids.ids[-limits.context_length :]
            return Prompt(field="prompt_token_ids", ids=tuple(ids))
        case "messages":
            turns = tuple({"role": turn.role, "content": turn.content} for turn in message.messages.messages)
            return Prompt(field="messages", turns=turns)
    return Prompt(field="prompt", text=message.prompt)


async def prompt_token_ids(prompt: Prompt, version: ServedVersion, *, most: int | None) -> list[int]:
    """The ids that the model sees, at least one. If there are more than `most`, it is the last ones.

    Raises InvalidRequest if they do not fit the context, or a conversation cannot be rendered.
    """
    ids = await _ids(prompt, version, may_be_cut=most is not None)
    if most is not None:
        ids = ids[-most:]
    if len(ids) > version.limits.context_length:
        raise InvalidRequest([_too_long(prompt.field, len(ids), version.limits)])
    return ids or [_first_token(version, prompt.field)]


async def encode(text: str, tokenizer: Tokenizer) -> list[int]:
    """The ids of a text."""
    if len(text) <= _QUICK_LENGTH:
        return tokenizer.encode(text)
    return await in_thread(len(text), lambda: tokenizer.encode(text))


def text_violations(text: str, field: str, limits: Limits) -> Violations:
    """A character has four bytes at most, so that most texts need not be encoded."""
    if len(text) * 4 > limits.max_text_bytes:
        yield from fields.too_many(field, len(text.encode()), limits.max_text_bytes, " bytes")


async def _ids(prompt: Prompt, version: ServedVersion, *, may_be_cut: bool) -> list[int]:
    if prompt.ids is not None:
        return list(prompt.ids)
    text = prompt.text if prompt.turns is None else await _rendered(prompt.turns, version)
    least = _fewest_tokens(text, version.tokenizer)
    if least > version.limits.context_length and not may_be_cut:
        raise InvalidRequest([_too_long(prompt.field, least, version.limits, at_least=True)])
    return await encode(text, version.tokenizer)


async def _rendered(turns: Sequence[Turn], version: ServedVersion) -> str:
    template = version.chat_template
    assert template is not None, "checked before"
    try:
        return await in_thread(sum(len(turn["content"]) for turn in turns), lambda: template.render(turns))
    except ChatError as error:
        raise InvalidRequest.of("messages", str(error)) from None


def _chat_violations(messages: Messages, version: ServedVersion) -> Violations:
    limits, turns = version.limits, messages.messages
    if version.chat_template is None:
        yield FieldViolation("messages", f"version {version.version} of {version.model} has no chat template")
    if not turns:
        yield FieldViolation("messages", "is empty; give at least one message")
    yield from fields.too_many("messages", len(turns), limits.max_messages, " messages")
    yield from fields.too_many("messages", messages.ByteSize(), limits.max_text_bytes, " bytes")


def _too_long(field: str, num_tokens: int, limits: Limits, *, at_least: bool = False) -> FieldViolation:
    count = f"at least {num_tokens}" if at_least else str(num_tokens)
    return FieldViolation(field, f"has {count} tokens; the model's context has {limits.context_length}")


def _fewest_tokens(text: str, tokenizer: Tokenizer) -> int:
    """A lower bound that costs nothing, so that hopeless texts are not tokenised."""
    if tokenizer.max_token_bytes is None:
        return 0
    return -(-len(text.encode()) // tokenizer.max_token_bytes)


def _first_token(version: ServedVersion, field: str) -> int:
    """What an empty prompt begins with."""
    defaults = version.defaults
    candidates = [token_id for token_id in (defaults.bos_token_id, *defaults.eos_token_ids) if token_id is not None]
    if not candidates:
        description = f"is empty, and {version.model} has no beginning-of-sequence or end token to start from"
        raise InvalidRequest.of(field, description)
    return candidates[0]
