"""Random messages of any type, from its descriptor alone, and what becomes of their bytes on a bad line."""

from collections.abc import Iterator
from random import Random
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from .values import USUAL, unusual

_MAX_DEPTH = 6
# Messages of more than 4 MiB never reach the service.
_MAX_CHARACTERS = 500_000
_CHANCE = 0.35
# Most requests without these are refused before they reach anything else; with those, much else is not reached.
_NEEDED = dict.fromkeys(("input", "form", "items", "request", "messages", "content", "ids", "texts"), 0.97)
_CHANCES = _NEEDED | {"logprobs": 0.6, "constraint": 0.15, "time_limit": 0.1, "min_new_tokens": 0.1}


class MessageMaker:
    """`wildness` is the chance of each value to be any that its type allows, and not a usual one."""

    def __init__(self, rng: Random, wildness: float) -> None:
        self._rng = rng
        self._wildness = wildness
        self._room = _MAX_CHARACTERS

    def make(self, descriptor: Descriptor, depth: int = 0) -> Message:
        message = GetMessageClass(descriptor)()
        for field in self._chosen_fields(descriptor):
            if field.message_type is None or depth < _MAX_DEPTH:
                self._fill(message, field, depth)
        return message

    def _chosen_fields(self, descriptor: Descriptor) -> Iterator[FieldDescriptor]:
        oneofs = [oneof for oneof in descriptor.oneofs if not oneof.name.startswith("_")]
        for oneof in oneofs:
            if self._rng.random() < _CHANCES.get(oneof.name, _CHANCE):
                yield self._rng.choice(oneof.fields)
        for field in descriptor.fields:
            if field.containing_oneof not in oneofs and self._rng.random() < _CHANCES.get(field.name, _CHANCE):
                yield field

    def _fill(self, message: Message, field: FieldDescriptor, depth: int) -> None:
        slot = getattr(message, field.name)
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            self._fill_map(slot, field, depth)
        elif field.is_repeated and field.message_type is not None:
            slot.extend(self.make(field.message_type, depth + 1) for _ in range(self._count(30)))
        elif field.is_repeated:
            slot.extend(self._scalar(field, field.name) for _ in range(self._count(3000)))
        elif field.message_type is not None:
            slot.CopyFrom(self.make(field.message_type, depth + 1))
        else:
            setattr(message, field.name, self._scalar(field, field.name))

    def _fill_map(self, slot: Any, field: FieldDescriptor, depth: int) -> None:
        key, value = (field.message_type.fields_by_name[name] for name in ("key", "value"))
        for _ in range(self._count(1000)):
            chosen = self._scalar(key, f"{field.name}.key")
            if value.message_type is not None:
                slot[chosen].CopyFrom(self.make(value.message_type, depth + 1))
            else:
                slot[chosen] = self._scalar(value, f"{field.name}.value")

    def _scalar(self, field: FieldDescriptor, name: str) -> Any:
        if name in USUAL and self._rng.random() >= self._wildness:
            return USUAL[name](self._rng)
        value = unusual(field, self._rng)
        if isinstance(value, str | bytes):
            self._room -= len(value)
            return value if self._room >= 0 else value[:3]
        return value

    def _count(self, most: int) -> int:
        return (
            self._rng.choice([0, 1, most // 10, most])
            if self._rng.random() < self._wildness
            else self._rng.randint(1, 4)
        )


def mutated(raw: bytes, rng: Random) -> bytes:
    """A few bytes changed, left out, doubled or put in."""
    data = bytearray(raw)
    for _ in range(rng.choice([1, 1, 2, 5, 20])):
        start = rng.randint(0, len(data))
        end = min(len(data), start + rng.choice([0, 1, 1, 2, 10, 100]))
        data[start:end] = rng.choice([b"", rng.randbytes(1), rng.randbytes(end - start), bytes(data[start:end]) * 2])
    return bytes(data)
