"""The kernel of attention.cpp: one new token in each of many sequences.

Shape letters: R rows, P packed tokens of which the first R are the rows', N query heads, K key-value heads, H head
dimension of queries and keys, V that of values.
"""

import ctypes
from array import array
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from rhapsode_server.engine.attention import AttentionOptions
from rhapsode_server.engine.kernels import library
from rhapsode_server.engine.tape import note


class _Arguments(ctypes.Structure):
    """The struct DecodeAttention; pointers are integers here."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("num_rows", "num_slots", "num_key_heads")),
        *((name, ctypes.c_int64) for name in ("group", "key_dim", "value_dim")),
        *((name, ctypes.c_int64) for name in ("slots", "lengths", "extents", "query", "key", "value")),
        *((f"{name}_{of}_stride", ctypes.c_int64) for name in ("query", "key", "value") for of in ("head", "row")),
        *((name, ctypes.c_int64) for name in ("out", "sinks", "window")),
        *((name, ctypes.c_float) for name in ("scaling", "softcap")),
    )


class DecodeAttention:
    """The rows of one forward: their slots, and how long their sequences are with the new tokens."""

    def __init__(self, slots: Sequence[int], lengths: Sequence[int]) -> None:
        self._slots, self._lengths = array("q", slots), array("q", lengths)
        self._arguments = _Arguments(
            num_rows=len(slots), slots=self._slots.buffer_info()[0], lengths=self._lengths.buffer_info()[0]
        )

    def move_to(self, slots: Sequence[int], lengths: Sequence[int]) -> None:
        """As many other rows, or the same ones later. Calls on a tape follow."""
        assert len(slots) == len(lengths) == len(self._slots)
        self._slots[:], self._lengths[:] = array("q", slots), array("q", lengths)

    def __call__(
        self,
        query_1NPH: Tensor,
        key_1KPH: Tensor,
        value_1KPV: Tensor,
        options: AttentionOptions,
        place: Callable[[], tuple[int, int]],
        out_1PNV: Tensor,
    ) -> None:
        """Store the rows' keys and values in one layer's extents and write their attention.

        `place` says where these are, as ExtentTable.place.

        All in float32; `out` is contiguous, the others may have any strides.
        """
        assert query_1NPH.dtype == key_1KPH.dtype == value_1KPV.dtype == out_1PNV.dtype == torch.float32
        assert out_1PNV.is_contiguous()
        sinks_N = None if options.sinks is None else options.sinks.float().contiguous()
        a = self._arguments
        _, num_heads, _, a.key_dim = query_1NPH.shape
        _, a.num_key_heads, _, a.value_dim = value_1KPV.shape
        a.group = num_heads // a.num_key_heads
        query, a.query_head_stride, a.query_row_stride = _with_dense_vectors(query_1NPH)
        key, a.key_head_stride, a.key_row_stride = _with_dense_vectors(key_1KPH)
        value, a.value_head_stride, a.value_row_stride = _with_dense_vectors(value_1KPV)
        a.query, a.key, a.value, a.out = query.data_ptr(), key.data_ptr(), value.data_ptr(), out_1PNV.data_ptr()
        a.scaling = a.key_dim**-0.5 if options.scaling is None else options.scaling
        a.window, a.softcap = options.sliding_window or 0, options.softcap or 0.0
        a.sinks = 0 if sinks_N is None else sinks_N.data_ptr()
        _run(a, place)
        note(lambda: partial(_run, _Arguments.from_buffer_copy(a), place))


def _run(arguments: _Arguments, place: Callable[[], tuple[int, int]]) -> None:
    arguments.extents, arguments.num_slots = place()
    failed = _kernel()(ctypes.byref(arguments))
    assert not failed, "a row has no extent, or one without room for its token"


def _with_dense_vectors(tensor_1NPH: Tensor) -> tuple[Tensor, int, int]:
    """The same with a last dimension without gaps, and the strides of heads and tokens."""
    strides = tensor_1NPH.stride()
    if strides[3] != 1:
        tensor_1NPH = tensor_1NPH.contiguous()
        strides = tensor_1NPH.stride()
    return tensor_1NPH, strides[1], strides[2]


@cache
def _kernel() -> Any:
    kernels = library()
    assert kernels
    kernels.rhapsode_decode_attention.argtypes = [ctypes.c_void_p]
    return kernels.rhapsode_decode_attention
