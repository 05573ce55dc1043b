"""Where ratings are kept: beside the versions, which never change once they are published."""

import json
from collections.abc import Mapping
from typing import Any

from rhapsode_contract.model_directory import Lease, ModelDirectory

from ..errors import ConfigError
from ..publish.actor import actor


def record_rating(directory: ModelDirectory, record: Mapping[str, Any]) -> None:
    """Adds the record to the ratings of its model, unless it is the last of its sheet already.

    Raises ConfigError (its versions are not in the directory), LeaseHeld.
    """
    (name, a), (other, b) = (_parsed(record["versions"][side]) for side in ("a", "b"))
    if name != other:
        raise ConfigError(f"the sheet compares two models, {name} and {other}: there is no place to keep that")
    folder = directory.model(name)
    for version in (a, b):
        folder.version_path(version)
    with Lease.acquire(folder, owner=actor()) as lease:
        kept = [known for known in folder.ratings() if known.get("sheet") == record["sheet"]]
        if not kept or {**kept[-1], **json.loads(json.dumps(record))} != kept[-1]:
            folder.add_rating(record, lease=lease)


def _parsed(text: str) -> tuple[str, int]:
    name, _, number = text.rpartition(" ")
    if not (name and number.isdecimal()):
        raise ConfigError(f"the key's version {text!r} is not a model and a version, such as 'poems 3'")
    return name, int(number)
