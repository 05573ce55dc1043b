"""SamplingParameters: ranges, defaults, and what the engine gets of them."""

import secrets
from collections.abc import Mapping, Sequence

from rhapsode.v1.generation_pb2 import SamplingParameters as Message

from rhapsode_server.engine.request import SamplingParameters
from rhapsode_server.errors import FieldViolation
from rhapsode_server.models.limits import Limits
from rhapsode_server.models.served import GenerationDefaults
from rhapsode_server.rpc.requests import fields
from rhapsode_server.rpc.requests.fields import Range, Violations

_RANGES: Mapping[str, Range] = {
    "temperature": Range(0, 100),
    "top_p": Range(0, 1, above=True),
    "min_p": Range(0, 1),
    "typical_p": Range(0, 1, above=True),
    "repetition_penalty": Range(0, 100, above=True),
    "presence_penalty": Range(-100, 100),
    "frequency_penalty": Range(-100, 100),
}
_BIAS = Range(-100, 100)

# Seeds that the server draws are exact in languages whose numbers are 64-bit floats.
_DRAWN_SEED_BITS = 53
SEEDS = 2**64


def draw_seed() -> int:
    return secrets.randbits(_DRAWN_SEED_BITS)


def violations(message: Message, limits: Limits) -> Violations:
    for descriptor, value in message.ListFields():
        if descriptor.name in _RANGES:
            yield from _RANGES[descriptor.name].check(f"sampling.{descriptor.name}", value)
    if message.logit_bias:
        yield from _bias_violations(message.logit_bias, limits)
    ids = message.allowed_token_ids
    yield from fields.token_ids(ids, "sampling.allowed_token_ids", limits.vocabulary_size, limits.vocabulary_size)
    yield from fields.texts(
        message.banned_words, "sampling.banned_words", limits.max_banned_words, limits.max_banned_word_characters
    )


def effective(asked: Message, defaults: GenerationDefaults) -> Message:
    """All of it filled in: what is unset comes from the version, the seed is drawn.

    In the wire's precision, so that what is returned gives the same tokens.
    """
    used = Message(
        temperature=defaults.temperature,
        top_k=defaults.top_k,
        top_p=defaults.top_p,
        min_p=defaults.min_p,
        typical_p=defaults.typical_p,
        repetition_penalty=defaults.repetition_penalty,
        presence_penalty=0.0,
        frequency_penalty=0.0,
        seed=draw_seed(),
    )
    used.MergeFrom(asked)
    return used


def engine_parameters(used: Message, banned_sequences: Sequence[tuple[int, ...]]) -> SamplingParameters:
    """What an `effective` message means to the engine."""
    return SamplingParameters(
        temperature=used.temperature,
        top_k=used.top_k,
        top_p=used.top_p,
        min_p=used.min_p,
        typical_p=used.typical_p,
        repetition_penalty=used.repetition_penalty,
        presence_penalty=used.presence_penalty,
        frequency_penalty=used.frequency_penalty,
        seed=used.seed,
        logit_bias=tuple(sorted(used.logit_bias.items())) if used.logit_bias else (),
        allowed_token_ids=tuple(sorted(set(used.allowed_token_ids))) if used.allowed_token_ids else (),
        banned_sequences=tuple(banned_sequences),
    )


def _bias_violations(bias: Mapping[int, float], limits: Limits) -> Violations:
    if len(bias) > limits.max_logit_biases:
        yield from fields.too_many("sampling.logit_bias", len(bias), limits.max_logit_biases)
        return
    for token_id, value in sorted(bias.items()):
        field = f"sampling.logit_bias[{token_id}]"
        if token_id >= limits.vocabulary_size:
            yield FieldViolation(field, f"is not below the vocabulary size, {limits.vocabulary_size}")
        yield from _BIAS.check(field, value)
