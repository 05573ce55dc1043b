"""What the comments of a schema say of gRPC statuses."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import grpc
from reference.schema import Schema

_CODES = {code.name: code.value[0] for code in grpc.StatusCode if code is not grpc.StatusCode.OK}
_STATUS = re.compile(rf"\b({'|'.join(_CODES)})\b(?!_)")
_CLAUSE_END = re.compile(r"(?<=[.;])\s+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """`owner` is the service, RPC, `Message.field` or enum whose comment says `text` of the status."""

    status: str
    number: int
    owner: str
    text: str


def statements(schema: Schema) -> list[Statement]:
    """Every clause that names a status, by the number of the status and then as they come."""
    found = [
        Statement(status=name, number=_CODES[name], owner=owner, text=clause.rstrip(";"))
        for owner, comment in _comments(schema)
        for clause in _CLAUSE_END.split(" ".join(comment.split()))
        for name in dict.fromkeys(_STATUS.findall(clause))
    ]
    return sorted(found, key=lambda statement: statement.number)


def _comments(schema: Schema) -> Iterator[tuple[str, str]]:
    for service in schema.services:
        yield service.name, service.comment
        for method in service.methods:
            yield method.name, method.comment
    for message in schema.messages:
        yield message.name, message.comment
        for field in message.fields:
            yield f"{message.name}.{field.name}", field.comment
