"""Rows of a dataset on the Hugging Face hub, at a pinned commit."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import ConfigError, DataError, TrainerError
from .outcome import Problem, Row, Rows
from .settings import SourceConfig


def hub_name(source: SourceConfig) -> str:
    """What messages and the lineage call the dataset; it is complete with the commit, which stands for the content."""
    return ":".join(part for part in ("hub", source.hub, source.hub_config, source.split) if part)


def read_hub(source: SourceConfig, fields: Sequence[str]) -> Rows:
    """The rows of the split, from the hub or its cache. They lie in a memory-mapped file, not in memory.

    Raises ConfigError where there is no such dataset (or HF_HUB_OFFLINE is set and the cache does not have it),
    TrainerError where the hub cannot be reached, which may be different tomorrow.
    """
    data, name = _load(source), hub_name(source)
    missing = [field for field in fields if field not in data.column_names]
    if missing:
        raise DataError(f"{name}: no column {missing[0]!r}; there are: {', '.join(data.column_names)}")
    for number, row in enumerate(data.select_columns(list(fields)), start=1):
        where, values = f"{name}, row {number}", tuple(row[field] for field in fields)
        if None in values:
            yield Problem(where, f"no text in the field {fields[values.index(None)]!r}")
        else:
            yield Row(where, values)


def _load(source: SourceConfig) -> Any:
    if Path(source.hub).exists():
        raise ConfigError(f"data: hub: there is a file or folder {source.hub!r} here, which would be read instead")
    import datasets
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return datasets.load_dataset(
            source.hub, source.hub_config or None, split=source.split, revision=source.revision
        )
    except (datasets.exceptions.DatasetsError, ValueError, RuntimeError) as error:
        raise ConfigError(f"data: {hub_name(source)}: {_first_line(error)}") from None
    except (ConnectionError, HfHubHTTPError) as error:
        if datasets.config.HF_HUB_OFFLINE:
            raise ConfigError(
                f"data: {hub_name(source)}: not in the cache, and HF_HUB_OFFLINE is set: {_first_line(error)}"
            ) from None
        raise TrainerError(f"{hub_name(source)}: the hub cannot be reached: {_first_line(error)}") from None


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
