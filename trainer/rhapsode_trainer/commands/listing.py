"""`list`: every version of every model with what was measured."""

from dataclasses import dataclass
from typing import Any

from rhapsode_contract.model_directory import ModelDirectory, ModelFolder
from rich.table import Table
from rich.text import Text

from .records import VersionRecords, number, read_records


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """One version. Numbers are None where nothing was measured; `verdict` is passed, failed, forced or empty."""

    model: str
    version: int
    aliases: tuple[str, ...]
    created: str
    recipe: str
    bits_per_byte: float | None
    low: float | None
    high: float | None
    perplexity: float | None
    verdict: str


def list_versions(directory: ModelDirectory) -> list[Listed]:
    """By model and version, ascending. Raises SourceError and CorruptFile, naming the file."""
    folders = [directory.model(name) for name in directory.models()]
    return [_listed(folder, version) for folder in folders for version in folder.versions()]


def _listed(folder: ModelFolder, version: int) -> Listed:
    records = read_records(folder.version_path(version))
    after = records.evaluation.get("after", {})
    return Listed(
        model=folder.name,
        version=version,
        aliases=tuple(sorted(alias for alias, number in folder.aliases().items() if number == version)),
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
    """A row for each version."""
    table = Table()
    for heading in ("model", "version", "aliases", "created", "recipe", "bits per byte", "perplexity", "gate"):
        numeric = heading in ("version", "bits per byte", "perplexity")
        table.add_column(heading, justify="right" if numeric else "left")
    for each in versions:
        aliases = ", ".join(each.aliases)
        perplexity = "" if each.perplexity is None else f"{each.perplexity:,.1f}"
        cells = (each.model, str(each.version), aliases, each.created, each.recipe, _bits(each), perplexity)
        table.add_row(*map(Text, cells), each.verdict, style="bold" if "champion" in each.aliases else None)
    return table


def _bits(each: Listed) -> str:
    if each.bits_per_byte is None:
        return ""
    interval = "" if each.low is None or each.high is None else f" [{each.low:.3f}, {each.high:.3f}]"
    return f"{each.bits_per_byte:.3f}{interval}"
