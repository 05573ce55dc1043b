"""Constraint: what form a completion must have. Whether it can be understood, the worker says."""

import json
from collections.abc import Sequence

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
            yield from _choice_violations(message.choices.texts)
    if found := constraint(message):
        size = len(found.source.encode())
        yield from fields.too_many(f"constraint.{found.kind}", size, limits.max_constraint_bytes, " bytes")


def constraint(message: Message) -> Constraint | None:
    match message.WhichOneof("form"):
        case None:
            return None
        case "choices":
            return Constraint("choices", json.dumps(list(message.choices.texts), ensure_ascii=False))
        case kind:
            return Constraint(kind, getattr(message, kind))


def _choice_violations(choices: Sequence[str]) -> Violations:
    if not choices:
        yield FieldViolation("constraint.choices.texts", "is empty; give at least one text")
    for index, text in enumerate(choices):
        if not text:
            yield FieldViolation(f"constraint.choices.texts[{index}]", "is empty")
