"""One look at the model directory. Whatever is half-written, foreign or unreadable in it is passed over."""

import logging
from dataclasses import dataclass
from pathlib import Path

from rhapsode_contract.model_directory import ModelDirectory, ModelDirectoryError, ModelFolder

logger = logging.getLogger("rhapsode.models")

CHAMPION = "champion"

# Name, size and time of change of every file: what a refused version is compared with before it is tried again.
Fingerprint = tuple[tuple[str, int, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScannedModel:
    """A model of the directory: its aliases, and the champion's folder when that is complete."""

    name: str
    aliases: dict[str, int]
    champion: int | None = None
    path: Path | None = None
    fingerprint: Fingerprint = ()


def scan(root: Path) -> list[ScannedModel]:
    """Every model that can be read, sorted by name."""
    directory = ModelDirectory(root)
    return [found for name in directory.models() if (found := _scan_model(directory.model(name)))]


def _scan_model(folder: ModelFolder) -> ScannedModel | None:
    try:
        aliases = folder.aliases()
        champion = aliases.get(CHAMPION)
        if champion is None:
            return ScannedModel(name=folder.name, aliases=aliases)
        path = folder.version_path(champion)
        return ScannedModel(
            name=folder.name, aliases=aliases, champion=champion, path=path, fingerprint=_fingerprint(path)
        )
    except (ModelDirectoryError, OSError) as error:
        logger.warning("%s: passed over until the next look: %s", folder.name, error)
        return None


def _fingerprint(path: Path) -> Fingerprint:
    stats = [(str(file.relative_to(path)), file.stat()) for file in path.rglob("*")]
    return tuple(sorted((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats))
