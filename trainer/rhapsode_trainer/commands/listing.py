"""`list`: every version of every model with what was measured."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rhapsode_contract.model_directory import CHAMPION, ModelDirectory, ModelFolder
from rich.table import Table
from rich.text import Text

from ..errors import SourceError
from .records import VersionRecords, number, read_records

_WHOLE = ("model", "version", "aliases", "weight")
_NUMERIC = ("version", "weight", "bits per byte", "perplexity")
_HEADINGS = (*_WHOLE, "created", "recipe", "bits per byte", "perplexity", "gate")


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """One version. Numbers are None where nothing was measured; `verdict` is passed, failed, forced or empty.

    `weight` is its part of the requests beside those of the other versions; None where it was given none.
    """

    model: str
    version: int
    aliases: tuple[str, ...]
    weight: int | None
    created: str
    recipe: str
    bits_per_byte: float | None
    low: float | None
    high: float | None
    perplexity: float | None
    verdict: str


def list_versions(directory: ModelDirectory) -> list[Listed]:
    """By model and version, ascending. Raises SourceError and CorruptFile, naming the file."""
    try:
        folders = [directory.model(name) for name in directory.models()]
        return [listed for folder in folders for listed in _list_model(folder)]
    except OSError as error:
        raise SourceError(f"{error.filename or directory.root}: {error.strerror}") from None


def _list_model(folder: ModelFolder) -> list[Listed]:
    aliases, weights = folder.aliases(), folder.traffic()
    return [_listed(folder, version, aliases, weights.get(version)) for version in folder.versions()]


def _listed(folder: ModelFolder, version: int, aliases: Mapping[str, int], weight: int | None) -> Listed:
    records = read_records(folder.version_path(version))
    after = records.evaluation.get("after", {})
    return Listed(
        model=folder.name,
        version=version,
        aliases=tuple(sorted(alias for alias, number in aliases.items() if number == version)),
        weight=weight,
        created=str(records.lineage.get("created", "")),
        recipe=str(records.lineage.get("recipe") or ""),
        bits_per_byte=number(after, "bits_per_byte"),
        low=number(after, "bits_per_byte_interval", "low"),
        high=number(after, "bits_per_byte_interval", "high"),
        perplexity=number(after, "perplexity"),
        verdict=_verdict(records),
    )


def _verdict(records: VersionRecords) -> str:
    verdict: Any = records.evaluation.get("verdict") or {}
    if not verdict:
        return ""
    return "passed" if verdict.get("passed") else "forced" if verdict.get("accepted") else "failed"


def render_list(versions: list[Listed]) -> Table:
    """A row for each version; `pinned` among its aliases and `weight` are what people decided for all servers."""
    table = Table()
    for heading in _HEADINGS:
        # In a narrow terminal the others give way: a version and what it serves as can always be read.
        table.add_column(heading, justify="right" if heading in _NUMERIC else "left", no_wrap=heading in _WHOLE)
    for each in versions:
        perplexity = "" if each.perplexity is None else f"{each.perplexity:,.1f}"
        weight = "" if each.weight is None else str(each.weight)
        serves = (each.model, str(each.version), "\n".join(each.aliases), weight)
        cells = (*serves, each.created, each.recipe, _bits(each), perplexity)
        table.add_row(*map(Text, cells), each.verdict, style="bold" if CHAMPION in each.aliases else None)
    return table


def _bits(each: Listed) -> str:
    if each.bits_per_byte is None:
        return ""
    interval = "" if each.low is None or each.high is None else f" [{each.low:.3f}, {each.high:.3f}]"
    return f"{each.bits_per_byte:.3f}{interval}"
