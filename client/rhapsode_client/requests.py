"""Arguments -> request messages. A value that a field cannot hold is an InvalidRequest that names the field."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar, Unpack

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from rhapsode.v1.generation_pb2 import ChatMessage as ChatTurn
from rhapsode.v1.generation_pb2 import (
    Choices,
    DetokenizeRequest,
    GenerateBatchItem,
    GenerateBatchRequest,
    GenerateRequest,
    Messages,
    ScoreRequest,
    TokenIds,
    TokenizeRequest,
)

from rhapsode_client.arguments import BatchItem, ChatMessage, GenerateOptions, Prompt
from rhapsode_client.errors import InvalidRequest

MessageT = TypeVar("MessageT", bound=Message)

PARTS: Mapping[str, tuple[str, ...]] = {
    "": ("model", "version", "alias", "request_id", "priority", "truncate_prompt"),
    "sampling": (
        "temperature",
        "top_k",
        "top_p",
        "min_p",
        "typical_p",
        "repetition_penalty",
        "presence_penalty",
        "frequency_penalty",
        "seed",
        "logit_bias",
        "allowed_token_ids",
        "banned_words",
    ),
    "stopping": (
        "max_new_tokens",
        "min_new_tokens",
        "stop",
        "stop_token_ids",
        "include_stop",
        "ignore_eos",
        "time_limit",
    ),
    "output": (
        "token_ids",
        "logprobs",
        "top_logprobs",
        "prompt_logprobs",
        "echo",
        "skip_special_tokens",
        "postprocess",
    ),
    "constraint": ("json_schema", "regex", "choices", "grammar"),
}
"""The options by the part of the request that holds them."""
_PART_OF = {name: part for part, names in PARTS.items() for name in names}


def generate_request(prompt: Prompt, **options: Unpack[GenerateOptions]) -> GenerateRequest:
    """The request for one completion of `prompt`."""
    given = {name: value for name, value in options.items() if value is not None}
    _check_exclusive(given, "alias", ("version", "alias"))
    _check_exclusive(given, "constraint", PARTS["constraint"])
    request = _prompted(GenerateRequest(), prompt)
    for name, value in given.items():
        if name not in _PART_OF:
            raise TypeError(f"{name}: no such option; GenerateOptions lists them")
        _set(request, _PART_OF[name], name, value)
    return request


def batch_request(items: Sequence[BatchItem], *, seed: int | None, request_id: str) -> GenerateBatchRequest:
    """The request for the completions of all `items`."""
    request = filled(GenerateBatchRequest(), seed=seed, request_id=request_id)
    for index, item in enumerate(items):
        path = f"items[{index}]."
        made = GenerateBatchItem(request=_item_request(item, f"{path}request."))
        request.items.append(filled(made, path, num_completions=item.num_completions))
    return request


def score_request(
    text: str | Sequence[int],
    *,
    model: str,
    version: int | None,
    alias: str | None,
    as_document: bool,
    overlap: int | None,
    top_logprobs: int,
    request_id: str,
) -> ScoreRequest:
    """The request for the log-probabilities of `text`."""
    request = filled(ScoreRequest(), model=model, request_id=request_id, **_selector(version, alias))
    if isinstance(text, str):
        filled(request, text=text)
    else:
        request.token_ids.CopyFrom(_token_ids(text, "token_ids"))
    return filled(request, as_document=as_document, overlap=overlap, top_logprobs=top_logprobs)


def tokenize_request(text: str, *, model: str, version: int | None, alias: str | None) -> TokenizeRequest:
    """The request for the tokens of `text`."""
    return filled(TokenizeRequest(), model=model, text=text, **_selector(version, alias))


def detokenize_request(
    ids: Sequence[int], *, model: str, version: int | None, alias: str | None, skip_special_tokens: bool | None
) -> DetokenizeRequest:
    """The request for the text of `ids`."""
    request = filled(DetokenizeRequest(), model=model, **_selector(version, alias))
    request.token_ids.CopyFrom(_token_ids(ids, "token_ids"))
    return filled(request, skip_special_tokens=skip_special_tokens)


def filled(message: MessageT, path: str = "", /, **fields: object) -> MessageT:
    """`message` with those of `fields` that are not None; `path` is where the message stands in the request."""
    for name, value in fields.items():
        if value is None:
            continue
        try:
            part = type(message)(**{name: value})
        except (AttributeError, TypeError, ValueError) as error:
            raise InvalidRequest.of(path + name, str(error)) from None
        # Merging nothing would still mark a nested message as present.
        if part.ByteSize():
            message.MergeFrom(part)
    return message


def duration(field: str, seconds: float) -> Duration:
    """Seconds as a message. Raises InvalidRequest that names the field."""
    made = Duration()
    try:
        made.FromNanoseconds(round(seconds * 1e9))
    except (TypeError, ValueError, OverflowError):
        raise InvalidRequest.of(field, f"must be a number of seconds, not {seconds!r}") from None
    return made


def _item_request(item: BatchItem, path: str) -> GenerateRequest:
    try:
        return generate_request(item.prompt, **item.options)
    except InvalidRequest as error:
        [violation] = error.violations
        raise InvalidRequest.of(path + violation.field, violation.description) from None


def _prompted(request: GenerateRequest, prompt: Prompt) -> GenerateRequest:
    if isinstance(prompt, str):
        return filled(request, prompt=prompt)
    if isinstance(prompt, Sequence) and prompt and isinstance(prompt[0], ChatMessage | Mapping):
        turns = [_turn(f"messages.messages[{index}]", each) for index, each in enumerate(prompt)]
        request.messages.CopyFrom(Messages(messages=turns))
    else:
        request.prompt_token_ids.CopyFrom(_token_ids(prompt, "prompt_token_ids"))
    return request


def _turn(path: str, message: object) -> ChatTurn:
    if isinstance(message, ChatMessage):
        return filled(ChatTurn(), f"{path}.", role=message.role, content=message.content)
    if isinstance(message, Mapping) and message.keys() == {"role", "content"}:
        return filled(ChatTurn(), f"{path}.", **message)
    raise InvalidRequest.of(path, "must be a ChatMessage, or a mapping with `role` and `content`")


def _set(request: GenerateRequest, part: str, name: str, value: object) -> None:
    """One option, as the wire spells it."""
    name, value = _spelled(name, value)
    filled(getattr(request, part) if part else request, f"{part}." if part else "", **{name: value})


def _spelled(name: str, value: object) -> tuple[str, object]:
    match name, value:
        case "stop", str():
            return "stop_strings", [value]
        case "stop", _:
            return "stop_strings", value
        case "time_limit", int() | float():
            return name, duration("stopping.time_limit", value)
        case "json_schema", Mapping():
            return name, _json(value)
        case "choices", _:
            return name, filled(Choices(), "constraint.choices.", texts=value)
    return name, value


def _json(schema: Mapping[str, object]) -> str:
    try:
        return json.dumps(dict(schema))
    except (TypeError, ValueError) as error:
        raise InvalidRequest.of("constraint.json_schema", str(error)) from None


def _check_exclusive(given: Mapping[str, object], field: str, names: Sequence[str]) -> None:
    present = [name for name in names if name in given]
    if len(present) > 1:
        raise InvalidRequest.of(field, f"give one of {', '.join(names)}, not {' and '.join(present)}")


def _token_ids(ids: object, field: str) -> TokenIds:
    if isinstance(ids, str | bytes) or not isinstance(ids, Iterable):
        raise InvalidRequest.of(field, f"must be a sequence of token ids, not {type(ids).__name__}")
    return filled(TokenIds(), f"{field}.", ids=ids)


def _selector(version: int | None, alias: str | None) -> dict[str, object]:
    selector: dict[str, object] = {"version": version, "alias": alias}
    _check_exclusive({name: value for name, value in selector.items() if value is not None}, "alias", tuple(selector))
    return selector
