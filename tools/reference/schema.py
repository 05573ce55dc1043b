"""What .proto files say, as values: services, messages, enums, each with its comment."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    ServiceDescriptorProto,
)

Path = tuple[int, ...]
Comments = Mapping[Path, str]
"""By the path of SourceCodeInfo: field numbers and indices from the file down to what the comment belongs to."""

# Field numbers of FileDescriptorProto and below it, of which those paths are made.
_MESSAGES, _ENUMS, _SERVICES = 4, 5, 6
_METHODS = _FIELDS = _VALUES = 2
_ONEOFS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """An RPC; `request` and `response` name messages."""

    name: str
    comment: str
    request: str
    response: str
    streams: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    name: str
    comment: str
    methods: Sequence[Method]


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """`label` is optional, repeated, map or nothing; `types` are one type, or key and value of a map."""

    name: str
    comment: str
    number: int
    label: str
    types: Sequence[str]
    oneof: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """`oneofs` are the comments of its oneofs by name."""

    name: str
    comment: str
    fields: Sequence[Field]
    oneofs: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Enum:
    """`values` are (name, number, comment)."""

    name: str
    comment: str
    values: Sequence[tuple[str, int, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    name: str
    services: Sequence[Service]
    messages: Sequence[Message]
    enums: Sequence[Enum]


@dataclass(frozen=True, slots=True, kw_only=True)
class Schema:
    """The files of one package."""

    package: str
    files: Sequence[File]

    @property
    def services(self) -> list[Service]:
        return [service for file in self.files for service in file.services]

    @property
    def messages(self) -> list[Message]:
        return [message for file in self.files for message in file.messages]

    @property
    def enums(self) -> list[Enum]:
        return [enum for file in self.files for enum in file.enums]


def read_schema(descriptors: FileDescriptorSet) -> Schema:
    """The files must be of one package, and declare their types outside of messages."""
    packages = {file.package for file in descriptors.file}
    assert len(packages) == 1, packages
    return Schema(package=packages.pop(), files=[_file(file) for file in descriptors.file])


def _file(file: FileDescriptorProto) -> File:
    comments = {tuple(place.path): _text(place.leading_comments) for place in file.source_code_info.location}
    return File(
        name=file.name,
        services=[_service(each, (_SERVICES, index), comments) for index, each in enumerate(file.service)],
        messages=[_message(each, (_MESSAGES, index), comments) for index, each in enumerate(file.message_type)],
        enums=[_enum(each, (_ENUMS, index), comments) for index, each in enumerate(file.enum_type)],
    )


def _text(comment: str) -> str:
    """Without the space that follows each `//`."""
    return "\n".join(line.removeprefix(" ").rstrip() for line in comment.splitlines()).strip()


def _service(service: ServiceDescriptorProto, path: Path, comments: Comments) -> Service:
    methods = [
        Method(
            name=method.name,
            comment=comments.get((*path, _METHODS, index), ""),
            request=_local(method.input_type),
            response=_local(method.output_type),
            streams=method.server_streaming,
        )
        for index, method in enumerate(service.method)
    ]
    return Service(name=service.name, comment=comments.get(path, ""), methods=methods)


def _message(message: DescriptorProto, path: Path, comments: Comments) -> Message:
    maps = {nested.name: nested for nested in message.nested_type if nested.options.map_entry}
    assert len(maps) == len(message.nested_type), f"{message.name} nests messages"
    assert not message.enum_type, f"{message.name} nests enums"
    oneofs = [oneof.name for oneof in message.oneof_decl]
    return Message(
        name=message.name,
        comment=comments.get(path, ""),
        fields=[
            _field(field, comments.get((*path, _FIELDS, index), ""), maps, oneofs)
            for index, field in enumerate(message.field)
        ],
        oneofs={name: comments.get((*path, _ONEOFS, index), "") for index, name in enumerate(oneofs)},
    )


def _field(
    field: FieldDescriptorProto, comment: str, maps: Mapping[str, DescriptorProto], oneofs: Sequence[str]
) -> Field:
    entry = maps.get(field.type_name.rpartition(".")[2])
    in_oneof = field.HasField("oneof_index") and not field.proto3_optional
    return Field(
        name=field.name,
        comment=comment,
        number=field.number,
        label="map" if entry else _label(field),
        types=_types(entry.field) if entry else _types([field]),
        oneof=oneofs[field.oneof_index] if in_oneof else None,
    )


def _label(field: FieldDescriptorProto) -> str:
    if field.label == FieldDescriptorProto.LABEL_REPEATED:
        return "repeated"
    return "optional" if field.proto3_optional else ""


def _types(fields: Iterable[FieldDescriptorProto]) -> list[str]:
    return [
        _local(field.type_name) or FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()
        for field in fields
    ]


def _enum(enum: EnumDescriptorProto, path: Path, comments: Comments) -> Enum:
    values = [
        (value.name, value.number, comments.get((*path, _VALUES, index), "")) for index, value in enumerate(enum.value)
    ]
    return Enum(name=enum.name, comment=comments.get(path, ""), values=values)


def _local(type_name: str) -> str:
    """`.rhapsode.v1.Usage` is Usage here; types of other packages keep their full name."""
    return type_name.removeprefix(".").removeprefix("rhapsode.v1.")
