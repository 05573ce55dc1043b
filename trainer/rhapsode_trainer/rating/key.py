"""key.json: which version stands on which side of each item of a sheet. Raters must not see it."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Self, get_args

from ..errors import DataError

SCHEMA_VERSION = 1
Version = Literal["a", "b"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """`left` holds, for each item in order, the version on the left side; `versions` names a and b; `seed` drew it."""

    sheet: str
    versions: Mapping[str, str]
    seed: int
    left: tuple[Version, ...]

    def __post_init__(self) -> None:
        if not (isinstance(self.sheet, str) and self.sheet):
            raise ValueError(f"sheet: {self.sheet!r} is not the name of a sheet")
        if not isinstance(self.versions, Mapping) or set(self.versions) != set(get_args(Version)):
            raise ValueError(f"versions: {self.versions!r} does not name the versions a and b")
        for number, side in enumerate(self.left, start=1):
            if side not in get_args(Version):
                raise ValueError(f"left: item {number} is {side!r}, neither 'a' nor 'b'")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Raises DataError, naming file and field."""
        try:
            document = json.loads(path.read_bytes())
            if document["schema_version"] != SCHEMA_VERSION:
                raise ValueError(f"schema_version: {document['schema_version']!r} is not {SCHEMA_VERSION}")
            fields = {name: document[name] for name in ("sheet", "versions", "seed")}
            return cls(**fields, left=tuple(document["left"]))
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror}") from None
        except KeyError as error:
            raise DataError(f"{path}: {error.args[0]}: missing") from None
        except (ValueError, TypeError, RecursionError) as error:
            raise DataError(f"{path}: not the key of a sheet: {error}") from None

    def as_dict(self) -> dict[str, Any]:
        return {"schema_version": SCHEMA_VERSION, **asdict(self), "versions": dict(self.versions)}

    def preferred(self, item: int, choice: Literal["left", "right"]) -> Version:
        """The version that a choice on `item` (from 1) stands for."""
        left = self.left[item - 1]
        other: Version = "b" if left == "a" else "a"
        return left if choice == "left" else other
