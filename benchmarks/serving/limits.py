"""What the machine could do at best, measured in the same run, and what the workload asks of it."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from benchmarks.serving.workload import Request

COPIED_BYTES = 2**28
MATMUL_SIZE = 2048
REPEATS = 7
BYTES_PER_WEIGHT = {"float32": 4, "bfloat16": 2, "int8": 1}
BYTES_PER_KV_VALUE = {"float32": 4, "bfloat16": 2, "int8": 4}


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Of a GPT-2: parameters of the matrices in its layers and of the one that gives logits; layers and width."""

    body: int
    head: int
    layers: int
    width: int

    @classmethod
    def of(cls, config: Any) -> "Shape":
        body = 12 * config.n_layer * config.n_embd**2
        return cls(body=body, head=config.vocab_size * config.n_embd, layers=config.n_layer, width=config.n_embd)

    def weight_bytes(self, precision: str) -> int:
        return (self.body + self.head) * BYTES_PER_WEIGHT[precision]

    def resident_weight_bytes(self, precision: str) -> int:
        """The embedding, which shares its weight with the head in float32, stays float32 beside a head of int8."""
        embedding = self.head * BYTES_PER_WEIGHT["float32"] if precision == "int8" else 0
        return self.weight_bytes(precision) + embedding

    def kv_bytes_per_token(self, precision: str) -> int:
        return 2 * self.layers * self.width * BYTES_PER_KV_VALUE[precision]


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """A workload as a decode step sees it: the mean context of a generated token, and prompt tokens for each."""

    context: float
    prompt_tokens_per_token: float

    @classmethod
    def of(cls, requests: Sequence[Request]) -> "Load":
        tokens = sum(each.num_tokens for each in requests)
        contexts = sum(each.num_tokens * (len(each.prompt_ids) + each.num_tokens / 2) for each in requests)
        prompts = sum(len(each.prompt_ids) for each in requests)
        return cls(context=contexts / tokens, prompt_tokens_per_token=prompts / tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bytes and operations a second. `read` is that of a buffer of the size of the weights, by precision: the smaller
    ones may fit a cache. `matmul` is that of large square matrices."""

    copy: float
    read: dict[str, float]
    matmul: dict[str, float]

    def step_seconds(self, shape: Shape, load: Load, rows: int, precision: str) -> float:
        """No step of `rows` rows, and the prompts that keep them coming, can take less: memory or arithmetic alone."""
        return max(self.memory_seconds(shape, load, rows, precision), self.matmul_seconds(shape, load, rows, precision))

    def memory_seconds(self, shape: Shape, load: Load, rows: int, precision: str) -> float:
        kv_bytes = rows * load.context * shape.kv_bytes_per_token(precision)
        return (shape.weight_bytes(precision) + kv_bytes) / self.read[precision]

    def matmul_seconds(self, shape: Shape, load: Load, rows: int, precision: str) -> float:
        """Attention counts as the other products do; that of prompts is left out."""
        operations = 2 * rows * (shape.body * (1 + load.prompt_tokens_per_token) + shape.head)
        operations += 4 * rows * load.context * shape.layers * shape.width
        return operations / self.matmul[precision]


def measure_limits(device: str, threads: int, precisions: Sequence[str], shape: Shape) -> Limits:
    torch.set_num_threads(threads)
    read = {each: read_bandwidth(device, shape.weight_bytes(each)) for each in precisions}
    return Limits(
        copy=copy_bandwidth(device), read=read, matmul={each: matmul_rate(device, each) for each in precisions}
    )


def copy_bandwidth(device: str) -> float:
    """Read and written bytes both count."""
    source = torch.ones(COPIED_BYTES // 4, device=device)
    target = torch.empty_like(source)
    return 2 * COPIED_BYTES / fastest(partial(target.copy_, source), device)


def read_bandwidth(device: str, num_bytes: int) -> float:
    """Matrix times vector reads every byte once; whole sums do too. The faster counts."""
    width = 1024
    matrix = torch.ones(max(1, num_bytes // 4 // width), width, device=device)
    vector = torch.ones(width, device=device)
    seconds = min(fastest(partial(torch.mv, matrix, vector), device), fastest(matrix.sum, device))
    return matrix.numel() * 4 / seconds


def matmul_rate(device: str, precision: str) -> float:
    size = MATMUL_SIZE
    if precision == "int8":
        left = torch.ones(size, size, dtype=torch.int8, device=device)
        run = partial(torch._int_mm, left, left)
    else:
        left = torch.ones(size, size, dtype=getattr(torch, precision), device=device)
        run = partial(torch.mm, left, left)
    return 2 * size**3 / fastest(run, device)


def fastest(run: Callable[[], object], device: str) -> float:
    """Seconds of the fastest of a few; the first warms up."""
    return min(timed(run, device) for _ in range(REPEATS + 1))


def timed(run: Callable[[], object], device: str) -> float:
    synchronize(device)
    began = time.perf_counter()
    run()
    synchronize(device)
    return time.perf_counter() - began


def synchronize(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()
