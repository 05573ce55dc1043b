"""What in a folder of weights would lead a library that loads it out of that folder."""

import json
from collections.abc import Iterator
from pathlib import Path

from . import files

ADAPTER = "adapter_config.json"
"""With it in the folder, transformers loads an adapter too where peft is installed, and the model that it names."""

INDEXES = "*.index.json"
"""Where weights are split, by the convention of transformers: in which file each one is."""


def leads_out(path: Path) -> tuple[str, str] | None:
    """The first file of the folder at `path` that leads out of it, and how; None if none does."""
    if (path / ADAPTER).exists():
        return ADAPTER, "an adapter, which stands on another model: merge it into that one"
    for index in sorted(path.glob(INDEXES)):
        try:
            outside = [shard for shard in _shards(index) if "/" in shard or shard in ("", ".", "..")]
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            return index.name, f"not an index of weights: {error!r}"
        if outside:
            return index.name, f"the weights {outside[0]!r} are not a file of this folder"
    return None


def _shards(index: Path) -> Iterator[str]:
    # A folder of the hub's cache consists of links.
    yield from json.loads(files.read_file(index, follow_links=True))["weight_map"].values()
