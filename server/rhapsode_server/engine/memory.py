"""How many tokens the KV cache may hold."""

from pathlib import Path

import torch

from rhapsode_server.engine.refusal import OUT_OF_MEMORY, ModelRefused

BLOCK_SIZE = 16

# Two workers of a model stand side by side during a swap, so each takes less than half of a device.
DEVICE_MEMORY_FRACTION = 0.45
HOST_MEMORY_FRACTION = 0.25


def num_kv_blocks(*, memory: int | None, bytes_per_token: int, device: torch.device, most_tokens: int) -> int:
    """Blocks for `memory` bytes (None: a share of what is free), never more than `most_tokens` need.

    Raises ModelRefused when not one block fits.
    """
    budget = memory if memory is not None else _share_of_free_memory(device)
    num_tokens = min(most_tokens, budget // bytes_per_token)
    if num_tokens < BLOCK_SIZE:
        raise ModelRefused(
            OUT_OF_MEMORY,
            f"{budget:,} bytes for the KV cache hold fewer than {BLOCK_SIZE} tokens of {bytes_per_token:,} bytes",
        )
    return num_tokens // BLOCK_SIZE


def _share_of_free_memory(device: torch.device) -> int:
    if device.type == "cuda":
        _, total = torch.cuda.mem_get_info(device)
        return max(0, int(total * DEVICE_MEMORY_FRACTION) - torch.cuda.memory_allocated(device))
    return int(_free_host_memory() * HOST_MEMORY_FRACTION)


def _free_host_memory() -> int:
    """What the machine and, in a container, its control group leave, in bytes."""
    fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    available = int(fields["MemAvailable"].split()[0]) * 1024
    limit, used = (_number(Path("/sys/fs/cgroup") / name) for name in ("memory.max", "memory.current"))
    return available if limit is None or used is None else min(available, max(0, limit - used))


def _number(path: Path) -> int | None:
    """A control group's figure; None where there is no group, or no limit (`max`)."""
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None
