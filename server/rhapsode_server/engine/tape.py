"""Work on a CPU that is recorded once and replayed: its operations on the same tensors, without the Python around them.

What a CUDA graph is for a device. A number or a branch of Python is what it was at the recording, so the work must be
the same whatever its tensors hold. An operation that brings values to the host, or whose output is as large as its
values say, cannot be recorded.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from rhapsode_server.engine.arena import Arena

_BY_VALUE = frozenset(
    f"aten::{name}"
    for name in ("_local_scalar_dense", "item", "is_nonzero", "equal", "nonzero", "masked_select", "_unique2")
)
_WITHOUT_CONTENT = frozenset(f"aten::{name}" for name in ("empty", "empty_like", "new_empty", "empty_strided"))


class NotRecordable(Exception):  # noqa: N818
    """The work does something that a tape cannot hold; the text names it."""


@dataclass(frozen=True, slots=True)
class Tape:
    """`kept` are the tensors that the calls read and write."""

    calls: list[Callable[[], object]] = field(default_factory=list)
    kept: list[Tensor] = field(default_factory=list)

    def replay(self) -> None:
        for call in self.calls:
            call()


_current: ContextVar[Tape | None] = ContextVar("tape", default=None)


def call(function: Callable[..., object], *arguments: object) -> None:
    """Call a function that writes through addresses, and note it where a tape is recorded. It returns nothing."""
    function(*arguments)
    note(lambda: partial(function, *arguments))


def note(make: Callable[[], Callable[[], object]]) -> None:
    """Where a tape is recorded, what `make` gives is called at each replay. Tensors that it reads must outlive it."""
    if tape := _current.get():
        tape.calls.append(make())


@contextmanager
def recording(arena: Arena) -> Iterator[Tape]:
    """What is computed in the body goes on the tape. Raises NotRecordable."""
    arena.clear()
    tape = Tape()
    token = _current.set(tape)
    try:
        with _Recorder(tape, arena):
            yield tape
    finally:
        _current.reset(token)


class _Recorder(TorchDispatchMode):
    """Notes torch's own operations, and gives them outputs that stay where they are."""

    def __init__(self, tape: Tape, arena: Arena) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._tape, self._arena = tape, arena

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func._schema.name in _BY_VALUE or _selects_by_mask(func, args):
            raise NotRecordable(f"what {func._schema.name} gives depends on values")
        outputs = func(*args, **kwargs)
        if func._schema.is_mutable:
            self._tape.calls.append(partial(func, *args, **kwargs))
        elif not _is_view(outputs, (args, kwargs)):
            outputs = self._with_places(func, args, kwargs, outputs)
        self._tape.kept.extend(_tensors((args, kwargs, outputs)))
        return outputs

    def _with_places(self, func: Any, args: Any, kwargs: Any, outputs: Any) -> Any:
        places = [self._arena.like(tensor) for tensor in _tensors(outputs)]
        if func._schema.name not in _WITHOUT_CONTENT:
            for place, output in zip(places, _tensors(outputs), strict=True):
                place.copy_(output)
            self._tape.calls.append(_computing_into(places, func, args, kwargs))
        return tuple(places) if isinstance(outputs, tuple | list) else places[0]


def _selects_by_mask(func: Any, args: Any) -> bool:
    return func._schema.name == "aten::index" and any(each.dtype == torch.bool for each in _tensors(args[1]))


def _computing_into(places: list[Tensor], func: Any, args: Any, kwargs: Any) -> Callable[[], object]:
    """By the operation's form that writes where it is told, if there is one: without a new tensor and a copy."""
    if not (writing := _form_that_writes(func)):
        return partial(_compute_into, places, func, args, kwargs)
    names = [argument.name for argument in writing._schema.arguments if argument.is_out]
    return partial(writing, *args, **kwargs, **dict(zip(names, places, strict=True)))


@cache
def _form_that_writes(func: Any) -> Any:
    """The overload that takes the same arguments and the outputs."""
    packet, wanted = func.overloadpacket, [(each.name, str(each.type)) for each in func._schema.arguments]
    for overload in (getattr(packet, name) for name in packet.overloads()):
        arguments = overload._schema.arguments
        given = [(each.name, str(each.type)) for each in arguments if not each.is_out]
        if given == wanted and len(given) < len(arguments):
            return overload
    return None


def _compute_into(places: list[Tensor], func: Any, args: Any, kwargs: Any) -> None:
    for place, new in zip(places, _tensors(func(*args, **kwargs)), strict=True):
        place.copy_(new)


def _is_view(outputs: Any, inputs: Any) -> bool:
    given = {tensor.untyped_storage().data_ptr() for tensor in _tensors(inputs)} - {0}
    return all(tensor.untyped_storage().data_ptr() in given for tensor in _tensors(outputs))


def _tensors(values: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]
