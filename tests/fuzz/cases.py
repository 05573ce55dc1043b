"""The requests of a fuzzing run: each made from the run's seed and its own number, so that any can be made again."""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from google.protobuf import text_format
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from rhapsode.v1 import generation_pb2, models_pb2

from .messages import MessageMaker, mutated

PATIENCE = 30.0
"""Seconds after which a call counts as hanging."""

SERVICES = [*generation_pb2.DESCRIPTOR.services_by_name.values(), *models_pb2.DESCRIPTOR.services_by_name.values()]
METHODS: Sequence[MethodDescriptor] = [method for service in SERVICES for method in service.methods]
_WEIGHTS = [4 if "Generate" in method.name else 2 for method in METHODS]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """`raw` is what goes over the wire. `cancel_after` messages have come, the caller hangs up, if it is not None."""

    number: int
    method: MethodDescriptor
    raw: bytes
    timeout: float = PATIENCE
    cancel_after: int | None = None

    @property
    def path(self) -> str:
        return f"/{self.method.containing_service.full_name}/{self.method.name}"

    @property
    def request(self) -> Message | None:
        """What the server reads, or None if `raw` is no such message."""
        try:
            return GetMessageClass(self.method.input_type).FromString(self.raw)
        except DecodeError:
            return None

    @property
    def is_impatient(self) -> bool:
        return self.timeout < PATIENCE

    def __str__(self) -> str:
        request = self.request
        shown = self.raw.hex() if request is None else text_format.MessageToString(request, as_one_line=True)
        cut = shown if len(shown) < 1500 else f"{shown[:1500]} ... ({len(self.raw)} bytes)"
        return f"case {self.number}: {self.method.name} timeout={self.timeout} cancel={self.cancel_after} {{{cut}}}"


def make_case(seed: int, number: int) -> Case:
    """Three in five are what callers might send, the others ever less so, down to random bytes."""
    rng = Random(f"{seed}/{number}")
    method = rng.choices(METHODS, _WEIGHTS)[0]
    kind = rng.choices(["usual", "odd", "wild", "mutated", "junk"], [12, 3, 2, 2, 1])[0]
    wildness = {"odd": 0.1, "wild": 0.6}.get(kind, 0.0)
    raw = MessageMaker(rng, wildness).make(method.input_type).SerializeToString()
    if kind == "mutated":
        raw = mutated(raw, rng)
    elif kind == "junk":
        raw = rng.randbytes(rng.choice([1, 10, 1000, 100_000]))
    timeout = rng.choice([0.001, 0.02, 0.1]) if rng.random() < 0.05 else PATIENCE
    cancel_after = rng.randint(0, 5) if method.server_streaming and rng.random() < 0.1 else None
    return Case(number=number, method=method, raw=raw, timeout=timeout, cancel_after=cancel_after)
