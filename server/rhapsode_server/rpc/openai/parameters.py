"""From the parameters of a call to the request that gRPC's callers would have sent."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rhapsode.v1 import generation_pb2 as pb

from rhapsode_server.errors import FieldViolation, InvalidRequest
from rhapsode_server.models.limits import REQUEST_LIMITS
from rhapsode_server.rpc.openai import values
from rhapsode_server.rpc.openai.values import Object

_SHARED: Mapping[str, tuple[str, Callable[[str, Any], Any]]] = {
    "max_tokens": ("stopping.max_new_tokens", values.count),
    "temperature": ("sampling.temperature", values.number),
    "top_p": ("sampling.top_p", values.number),
    "presence_penalty": ("sampling.presence_penalty", values.number),
    "frequency_penalty": ("sampling.frequency_penalty", values.number),
    "seed": ("sampling.seed", values.seed),
    # Not OpenAI's, but known by these names to other servers and their callers.
    "top_k": ("sampling.top_k", values.count),
    "min_p": ("sampling.min_p", values.number),
    "typical_p": ("sampling.typical_p", values.number),
    "repetition_penalty": ("sampling.repetition_penalty", values.number),
    "min_tokens": ("stopping.min_new_tokens", values.count),
    "ignore_eos": ("stopping.ignore_eos", values.switch),
}
_COMPLETION = {**_SHARED, "echo": ("output.echo", values.switch), "logprobs": ("output.top_logprobs", values.count)}
_CHAT = {
    **_SHARED,
    "max_completion_tokens": ("stopping.max_new_tokens", values.count),
    "logprobs": ("output.logprobs", values.switch),
    "top_logprobs": ("output.top_logprobs", values.count),
}
_TAKEN_APART = ("model", "n", "stop", "logit_bias", "response_format", "stream", "stream_options", "user")
_OF_THE_CONTRACT = {
    "stopping.stop_strings": "stop",
    "sampling.logit_bias": "logit_bias",
    "prompt_token_ids.ids": "prompt",
    "prompt_token_ids": "prompt",
    "constraint.json_schema": "response_format",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A call. `user` is whoever the caller asks for; calls of one user go to one version where traffic is split."""

    batch: pb.GenerateBatchRequest
    is_chat: bool
    streams: bool
    includes_usage: bool
    user: str

    @property
    def num_completions(self) -> int:
        """Of each prompt."""
        return self.batch.items[0].num_completions

    @property
    def num_prompts(self) -> int:
        return len(self.batch.items)

    @property
    def only_request(self) -> pb.GenerateRequest | None:
        """None: there are several completions."""
        return self.batch.items[0].request if self.num_prompts == self.num_completions == 1 else None

    @property
    def returns_logprobs(self) -> bool:
        return self.batch.items[0].request.output.logprobs


def asked(given: Object, *, is_chat: bool) -> Asked:
    """Raises InvalidRequest for the first parameter that is wrong or unknown."""
    table, read = (_CHAT, _conversation) if is_chat else (_COMPLETION, _prompt)
    values.check_known(given, ("messages" if is_chat else "prompt", *_TAKEN_APART, *table))
    common = _common(given, table)
    if not is_chat and "logprobs" in given:
        common.output.logprobs = True
        common.output.prompt_logprobs = common.output.echo
    prompts, num_completions = _prompts(given, is_chat=is_chat), values.count("n", given.get("n", 1))
    _check_size(common, len(prompts), num_completions)
    streams = values.switch("stream", given.get("stream", False))
    return Asked(
        batch=pb.GenerateBatchRequest(items=[_item(common, read(each), num_completions) for each in prompts]),
        is_chat=is_chat,
        streams=streams,
        includes_usage=_includes_usage(given, streams=streams),
        user=values.text("user", given.get("user", "")),
    )


def in_their_words(error: InvalidRequest, *, is_chat: bool) -> InvalidRequest:
    """The same with the names that the caller knows its parameters by."""
    table = _CHAT if is_chat else _COMPLETION
    # In this order max_tokens is that of the two which stays.
    names = {path: name for name, (path, _) in reversed(table.items())} | _OF_THE_CONTRACT
    return InvalidRequest([FieldViolation(_name(each.field, names), each.description) for each in error.violations])


def _name(field: str, names: Mapping[str, str]) -> str:
    for path, name in names.items():
        if field == path or field.startswith((f"{path}.", f"{path}[")):
            return name + field.removeprefix(path)
    return field


def _item(common: pb.GenerateRequest, prompt: pb.GenerateRequest, num_completions: int) -> pb.GenerateBatchItem:
    item = pb.GenerateBatchItem(request=common, num_completions=num_completions)
    item.request.MergeFrom(prompt)
    return item


def _common(given: Object, table: Mapping[str, tuple[str, Callable[[str, Any], Any]]]) -> pb.GenerateRequest:
    request = pb.GenerateRequest()
    _select(request, values.text("model", given.get("model", "")))
    for name, (path, read) in table.items():
        if name in given:
            part, _, field = path.partition(".")
            setattr(getattr(request, part), field, read(name, given[name]))
    request.stopping.stop_strings.extend(_stops(given.get("stop", [])))
    for token_id, bias in _biases(given.get("logit_bias", {})):
        request.sampling.logit_bias[token_id] = bias
    if (schema := _schema(given.get("response_format", {"type": "text"}))) is not None:
        request.constraint.json_schema = schema
    return request


def _select(request: pb.GenerateRequest, model: str) -> None:
    """`name`, `name@version` or `name:alias`."""
    request.model, at, version = model.partition("@")
    if at:
        if not version.isascii() or not version.isdecimal() or len(version) > 18:
            raise InvalidRequest.of("model", "after the @ belongs the number of a version")
        request.version = int(version)
        return
    request.model, colon, alias = model.partition(":")
    if colon:
        request.alias = alias


def _check_size(common: pb.GenerateRequest, num_prompts: int, num_completions: int) -> None:
    """The same bounds as for gRPC's callers, whose batch would have the parameters beside every prompt."""
    most = REQUEST_LIMITS.max_batch_completions
    if not 1 <= num_completions <= most:
        raise InvalidRequest.of("n", f"must be from 1 to {most}")
    if not 1 <= num_prompts * num_completions <= most:
        raise InvalidRequest.of("prompt", f"must be one at least; with n of each, at most {most} completions in a call")
    if common.ByteSize() * num_prompts > REQUEST_LIMITS.max_message_bytes:
        raise InvalidRequest.of("prompt", "are too many for so large a set of other parameters")


def _prompts(given: Object, *, is_chat: bool) -> list[Any]:
    """A conversation; or one text or many, the token ids of one or of many."""
    name = "messages" if is_chat else "prompt"
    value = given.get(name)
    if value is None:
        raise InvalidRequest.of(name, "is missing")
    is_one = is_chat or isinstance(value, str) or (values.listed(name, value) and type(value[0]) is int)
    return [value] if is_one else value


def _prompt(value: Any) -> pb.GenerateRequest:
    if isinstance(value, list):
        return pb.GenerateRequest(prompt_token_ids=pb.TokenIds(ids=values.token_ids("prompt", value)))
    return pb.GenerateRequest(prompt=values.text("prompt", value))


def _conversation(value: Any) -> pb.GenerateRequest:
    messages = [_turn(f"messages[{index}]", turn) for index, turn in enumerate(values.listed("messages", value))]
    return pb.GenerateRequest(messages=pb.Messages(messages=messages))


def _turn(name: str, value: Any) -> pb.ChatMessage:
    turn = values.known(name, value, ("role", "content"))
    content = turn.get("content")
    if isinstance(content, list):
        content = "".join(_part(f"{name}.content[{index}]", part) for index, part in enumerate(content))
    return pb.ChatMessage(role=values.text(f"{name}.role", turn.get("role")), content=values.text(name, content))


def _part(name: str, value: Any) -> str:
    part = values.known(name, value, ("type", "text"))
    if part.get("type") != "text":
        raise InvalidRequest.of(name, "is of a kind that is not supported; there is text")
    return values.text(name, part.get("text"))


def _stops(value: Any) -> list[str]:
    stops = [value] if isinstance(value, str) else values.listed("stop", value)
    return [values.text("stop", each) for each in stops]


def _biases(value: Any) -> Iterator[tuple[int, float]]:
    for key, bias in values.mapped("logit_bias", value).items():
        if not key.isascii() or not key.isdecimal() or len(key) > 9:
            raise InvalidRequest.of("logit_bias", "must have token ids for its keys")
        yield int(key), values.number("logit_bias", bias)


def _schema(value: Any) -> str | None:
    """The JSON schema that the answer must fit; None: any text will do."""
    wanted = values.known("response_format", value, ("type", "json_schema"))
    match wanted.get("type"):
        case "text":
            return None
        case "json_object":
            return '{"type": "object"}'
        case "json_schema":
            described = values.mapped("response_format", wanted.get("json_schema"))
            return json.dumps(values.mapped("response_format", described.get("schema")))
    description = "is of a kind that is not supported; there are text, json_object and json_schema"
    raise InvalidRequest.of("response_format", description)


def _includes_usage(given: Object, *, streams: bool) -> bool:
    if "stream_options" not in given:
        return False
    if not streams:
        raise InvalidRequest.of("stream_options", "belongs to a stream; set stream to true")
    options = values.known("stream_options", given["stream_options"], ("include_usage",))
    return values.switch("stream_options", options.get("include_usage", False))
