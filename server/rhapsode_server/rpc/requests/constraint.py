"""Constraint: what form a completion must have. Whether it can be understood, the worker says."""

import json

from rhapsode.v1.generation_pb2 import Choices
from rhapsode.v1.generation_pb2 import Constraint as Message

from rhapsode_server.engine.request import Constraint
from rhapsode_server.errors import FieldViolation
from rhapsode_server.models.limits import Limits
from rhapsode_server.rpc.requests import fields
from rhapsode_server.rpc.requests.fields import Violations


def violations(message: Message, limits: Limits) -> Violations:
    match message.WhichOneof("form"):
        case None:
            yield FieldViolation("constraint", "is empty; give json_schema, regex, choices or grammar")
        case "choices":
            yield from _choice_violations(message.choices, limits)
        case kind:
            yield from _size_violations(kind, getattr(message, kind), limits)


def constraint(message: Message) -> Constraint | None:
    match message.WhichOneof("form"):
        case None:
            return None
        case "choices":
            return Constraint("choices", _source(message.choices))
        case kind:
            return Constraint(kind, getattr(message, kind))


def _choice_violations(choices: Choices, limits: Limits) -> Violations:
    """The message, which is never larger than its source, is measured before anything is made of it."""
    texts, field = choices.texts, "constraint.choices.texts"
    if not texts:
        yield FieldViolation(field, "is empty; give at least one text")
    if len(texts) > limits.max_choices:
        yield from fields.too_many(field, len(texts), limits.max_choices)
        return
    for index, text in enumerate(texts):
        if not text:
            yield FieldViolation(f"{field}[{index}]", "is empty")
    if (size := choices.ByteSize()) > limits.max_constraint_bytes:
        yield from fields.too_many("constraint.choices", size, limits.max_constraint_bytes, " bytes")
    else:
        yield from _size_violations("choices", _source(choices), limits)


def _size_violations(kind: str, source: str, limits: Limits) -> Violations:
    yield from fields.too_many(f"constraint.{kind}", len(source.encode()), limits.max_constraint_bytes, " bytes")


def _source(choices: Choices) -> str:
    return json.dumps(list(choices.texts), ensure_ascii=False)
