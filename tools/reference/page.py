"""The page of a schema, in GitHub's Markdown."""

from collections.abc import Iterable, Sequence

from reference.markdown import Linker, table
from reference.schema import Enum, Field, Message, Method, Schema, Service
from reference.statuses import statements

_HEADER = """\
<!-- Generated from the comments of proto/{folder}/*.proto by `make docs`: edit those. -->

# API reference

Package `{package}`, over gRPC. How to call it from a shell and from Python: [calling.md](calling.md).
"""

_STATUSES = """\
## Errors

A call that fails ends with one of these gRPC statuses. What the comments below say of them, in one place:
"""


def render(schema: Schema) -> str:
    """The whole page; the same schema gives the same bytes."""
    link = Linker(schema)
    parts = [_HEADER.format(package=schema.package, folder=schema.package.replace(".", "/")), _contents(schema, link)]
    parts += [_service(service, link) for service in schema.services]
    parts += [_STATUSES, _statuses(schema, link)]
    parts += ["## Message types\n", *(_message(message, schema, link) for message in schema.messages)]
    parts += ["## Enum types\n", *(_enum(enum, link) for enum in schema.enums)]
    return "\n".join(parts)


def _contents(schema: Schema, link: Linker) -> str:
    lines = [
        f"- {link.to(service.name)}: {_listed(link, (method.name for method in service.methods))}"
        for service in schema.services
    ]
    lines.append("- [Errors](#errors)")
    lines.append(f"- [Message types](#message-types): {_listed(link, (message.name for message in schema.messages))}")
    lines.append(f"- [Enum types](#enum-types): {_listed(link, (enum.name for enum in schema.enums))}")
    return "\n".join(lines) + "\n"


def _listed(link: Linker, names: Iterable[str]) -> str:
    return ", ".join(map(link.to, names))


def _service(service: Service, link: Linker) -> str:
    methods = [_method(method, link) for method in service.methods]
    return "\n".join([f"## {service.name}\n", link.prose(service.comment, service.name), "", *methods])


def _method(method: Method, link: Linker) -> str:
    stream = "stream of " if method.streams else ""
    signature = f"{link.to(method.request)} &rarr; {stream}{link.to(method.response)}"
    return f"### {method.name}\n\n{signature}\n\n{link.prose(method.comment, method.name)}\n"


def _statuses(schema: Schema, link: Linker) -> str:
    rows = [
        (f"`{each.status}`", str(each.number), link.to(each.owner), link.cell(each.text)) for each in statements(schema)
    ]
    return table(("Status", "Code", "Said of", "What"), rows)


def _message(message: Message, schema: Schema, link: Linker) -> str:
    parts = [f"### {message.name}\n", link.prose(message.comment, message.name), ""]
    if users := _users(message.name, schema):
        parts += [f"Used by {_listed(link, users)}.", ""]
    if message.fields:
        rows = [row for field in message.fields for row in _rows(field, message, link)]
        parts.append(table(("Field", "No.", "Type", "Label", "Description"), rows))
    return "\n".join(parts)


def _users(name: str, schema: Schema) -> Sequence[str]:
    """The RPCs and messages that hold it."""
    methods = [method for service in schema.services for method in service.methods]
    users = [method.name for method in methods if name in (method.request, method.response)]
    users += [message.name for message in schema.messages if any(name in field.types for field in message.fields)]
    return users


def _rows(field: Field, message: Message, link: Linker) -> Iterable[Sequence[str]]:
    """The row of a field, after that of its oneof if it is the first there."""
    members = [other.name for other in message.fields if other.oneof is not None and other.oneof == field.oneof]
    if field.oneof is not None and members[0] == field.name:
        yield f"*{field.oneof}*", "", "", "oneof", link.cell(message.oneofs[field.oneof])
    label = f"*{field.oneof}*" if field.oneof is not None else field.label
    types = ", ".join(map(link.type, field.types))
    shown = f"map&lt;{types}&gt;" if field.label == "map" else types
    yield f"`{field.name}`", str(field.number), shown, label, link.cell(field.comment, message.name)


def _enum(enum: Enum, link: Linker) -> str:
    rows = [(f"`{name}`", str(number), link.cell(comment)) for name, number, comment in enum.values]
    prose = link.prose(enum.comment, enum.name)
    return f"### {enum.name}\n\n{prose}\n\n" + table(("Value", "No.", "Description"), rows)
