"""From a GenerateRequest to what is to be done, with every default filled in and every field at fault named."""

import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rhapsode.v1.generation_pb2 import GenerateRequest
from rhapsode.v1.generation_pb2 import SamplingParameters as SamplingMessage

from rhapsode_server.engine.request import SamplingParameters
from rhapsode_server.errors import FieldViolation, InvalidRequest
from rhapsode_server.models.served import GenerationDefaults, Limits, ServedVersion
from rhapsode_server.rpc.call import is_request_id

_MAX_TEMPERATURE = 100.0
_MAX_STOP_STRINGS = 16
_MAX_STOP_STRING_LENGTH = 256
_MAX_STOP_TOKEN_IDS = 64

# Seeds that the server draws are exact in languages whose numbers are 64-bit floats.
_DRAWN_SEED_BITS = 53

Violations = Iterator[FieldViolation]


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """A completion to generate. `prompt` is a text or token ids; `eos_token_ids` is empty when they do not end it."""

    prompt: str | tuple[int, ...]
    sampling: SamplingParameters
    max_new_tokens: int
    stop_strings: tuple[str, ...]
    stop_token_ids: frozenset[int]
    eos_token_ids: frozenset[int]
    returns_token_ids: bool
    skip_special_tokens: bool


def generation_request(
    message: GenerateRequest, version: ServedVersion, default_max_new_tokens: int
) -> GenerationRequest:
    """Raises InvalidRequest with all fields at fault."""
    if violations := list(_violations(message, version.limits)):
        raise InvalidRequest(violations)
    stopping, output = message.stopping, message.output
    has_limit, has_skip = stopping.HasField("max_new_tokens"), output.HasField("skip_special_tokens")
    return GenerationRequest(
        prompt=message.prompt if message.WhichOneof("input") == "prompt" else tuple(message.prompt_token_ids.ids),
        sampling=_sampling(message.sampling, version.defaults),
        max_new_tokens=stopping.max_new_tokens if has_limit else default_max_new_tokens,
        stop_strings=tuple(stopping.stop_strings),
        stop_token_ids=frozenset(stopping.stop_token_ids),
        eos_token_ids=frozenset() if stopping.ignore_eos else frozenset(version.defaults.eos_token_ids),
        returns_token_ids=output.token_ids,
        skip_special_tokens=output.skip_special_tokens if has_skip else True,
    )


def unknown_token_id(ids: Sequence[int], field: str, vocabulary_size: int) -> Violations:
    """The first of `ids` that the vocabulary does not have, if there is one."""
    if ids and max(ids) >= vocabulary_size:
        index = next(index for index, token_id in enumerate(ids) if token_id >= vocabulary_size)
        yield FieldViolation(f"{field}[{index}]", f"{ids[index]} is not below the vocabulary size, {vocabulary_size}")


def _violations(message: GenerateRequest, limits: Limits) -> Violations:
    if message.request_id and not is_request_id(message.request_id):
        yield FieldViolation("request_id", "must be at most 128 printable ASCII characters")
    yield from _prompt_violations(message, limits)
    yield from _sampling_violations(message.sampling)
    yield from _stopping_violations(message, limits)


def _prompt_violations(message: GenerateRequest, limits: Limits) -> Violations:
    match message.WhichOneof("input"):
        case None:
            yield FieldViolation("prompt", "is missing; give a prompt, which may be empty, or prompt_token_ids")
        case "prompt_token_ids":
            ids = message.prompt_token_ids.ids
            if len(ids) > limits.context_length:
                yield too_long("prompt_token_ids", len(ids), limits)
            else:
                yield from unknown_token_id(ids, "prompt_token_ids.ids", limits.vocabulary_size)


def too_long(field: str, num_tokens: int, limits: Limits, *, at_least: bool = False) -> FieldViolation:
    """A prompt that does not fit the context."""
    count = f"at least {num_tokens}" if at_least else str(num_tokens)
    return FieldViolation(field, f"has {count} tokens; the model's context has {limits.context_length}")


def _sampling_violations(sampling: SamplingMessage) -> Violations:
    # Written so that NaN, which compares as false with everything, is out of range.
    if not 0 <= sampling.temperature <= _MAX_TEMPERATURE:
        yield FieldViolation(
            "sampling.temperature", f"must be from 0 to {_MAX_TEMPERATURE:g}, not {sampling.temperature:g}"
        )
    if sampling.HasField("top_p") and not 0 < sampling.top_p <= 1:
        yield FieldViolation("sampling.top_p", f"must be above 0 and at most 1, not {sampling.top_p:g}")


def _stopping_violations(message: GenerateRequest, limits: Limits) -> Violations:
    stopping = message.stopping
    if len(stopping.stop_strings) > _MAX_STOP_STRINGS:
        yield FieldViolation("stopping.stop_strings", f"at most {_MAX_STOP_STRINGS}, not {len(stopping.stop_strings)}")
    for index, text in enumerate(stopping.stop_strings[:_MAX_STOP_STRINGS]):
        if not 1 <= len(text) <= _MAX_STOP_STRING_LENGTH:
            description = f"must have 1 to {_MAX_STOP_STRING_LENGTH} characters, not {len(text)}"
            yield FieldViolation(f"stopping.stop_strings[{index}]", description)
    if len(stopping.stop_token_ids) > _MAX_STOP_TOKEN_IDS:
        description = f"at most {_MAX_STOP_TOKEN_IDS}, not {len(stopping.stop_token_ids)}"
        yield FieldViolation("stopping.stop_token_ids", description)
    else:
        yield from unknown_token_id(stopping.stop_token_ids, "stopping.stop_token_ids", limits.vocabulary_size)


def _sampling(asked: SamplingMessage, defaults: GenerationDefaults) -> SamplingParameters:
    """What is unset comes from the version. In the wire's precision, so that what is returned gives the same tokens."""
    used = SamplingMessage(temperature=defaults.temperature, top_k=defaults.top_k, top_p=defaults.top_p)
    used.seed = secrets.randbits(_DRAWN_SEED_BITS)
    used.MergeFrom(asked)
    return SamplingParameters(temperature=used.temperature, top_k=used.top_k, top_p=used.top_p, seed=used.seed)
