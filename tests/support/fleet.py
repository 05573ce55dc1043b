"""What the fleet decides, and what may happen to the files in which it does: one model of a model directory."""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from rhapsode_contract.model_directory import ModelDirectory, ModelFolder

Damage = Callable[[Path], None]


@dataclass(frozen=True, slots=True)
class Fleet:
    """Decisions are written as the trainer writes them, but without its lease and its history."""

    root: Path
    name: str = "poems"

    @property
    def folder(self) -> ModelFolder:
        return ModelDirectory(self.root).model(self.name)

    def copy(self, version: int, damage: Damage | None = None) -> int:
        """A copy of a version as the next one, damaged before anybody can see it. No alias moves."""
        number = max(self.folder.version_numbers()) + 1
        hidden = self.folder.path / f".copy-{number}"
        shutil.copytree(self.folder.path / str(version), hidden)
        if damage:
            damage(hidden)
        hidden.rename(self.folder.path / str(number))
        return number

    def promote(self, version: int) -> None:
        """Whatever it is: nothing is asked of the version."""
        aliases = self.folder.aliases()
        before = aliases.get("champion", version)
        self._write("aliases.json", aliases | {"champion": version, "previous": before})

    def pin(self, version: int | None) -> None:
        """None: no longer."""
        aliases = self.folder.aliases()
        aliases.pop("pinned", None)
        self._write("aliases.json", aliases if version is None else aliases | {"pinned": version})

    def split(self, weights: Mapping[int, int]) -> None:
        """Empty: no longer."""
        if weights:
            self._write(
                "traffic.json", {"schema_version": 1, "weights": {str(each): weights[each] for each in weights}}
            )
        else:
            (self.folder.path / "traffic.json").unlink()

    def _write(self, name: str, document: Mapping[str, object]) -> None:
        temporary = self.folder.path / f".{name}.new"
        temporary.write_text(json.dumps(document), encoding="utf-8")
        os.replace(temporary, self.folder.path / name)
