"""Says which of the pinned versions have published vulnerabilities. Exit codes: 1 some have, 2 no such file.

python tools/audit.py ADVISORIES.zip

The advisories are those that OSV publishes of PyPI, one JSON file each in a zip: fetched beforehand, so that the audit
itself needs no network and gives the same answer tomorrow. It knows what was published when the file was made.
"""

import argparse
import json
import sys
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

CONSTRAINTS = Path(__file__).resolve().parents[1] / "constraints.txt"
Advisory = Mapping[str, Any]


def read_pins(path: Path) -> dict[str, Version]:
    lines = [line for line in path.read_text("utf-8").splitlines() if line and not line.startswith("#")]
    parsed = map(Requirement, lines)
    return {canonicalize_name(each.name): Version(str(each.specifier).removeprefix("==")) for each in parsed}


def read_advisories(path: Path) -> Iterator[Advisory]:
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if name.endswith(".json"):
                yield json.loads(archive.read(name))


def findings(pins: Mapping[str, Version], advisories: Iterator[Advisory]) -> list[str]:
    """A line for each advisory that a pinned version falls under."""
    return sorted(
        f"{name} {pins[name]}: {advisory['id']} {advisory.get('summary', '')}".rstrip()
        for advisory in advisories
        if "withdrawn" not in advisory
        for name in {canonicalize_name(each["package"]["name"]) for each in _of_pypi(advisory)} & pins.keys()
        if any(_is_hit(pins[name], each) for each in _of_pypi(advisory) if _is_about(each, name))
    )


def _of_pypi(advisory: Advisory) -> list[Advisory]:
    return [each for each in advisory.get("affected", ()) if each.get("package", {}).get("ecosystem") == "PyPI"]


def _is_about(affected: Advisory, name: str) -> bool:
    return bool(canonicalize_name(affected["package"]["name"]) == name)


def _is_hit(version: Version, affected: Advisory) -> bool:
    ranges = [each for each in affected.get("ranges", ()) if each["type"] == "ECOSYSTEM"]
    return str(version) in affected.get("versions", ()) or any(_is_within(version, each["events"]) for each in ranges)


def _is_within(version: Version, events: list[Mapping[str, str]]) -> bool:
    """The last event up to the version decides; a range that ends with a last affected version includes it."""
    hit = False
    for at, kind in sorted(_read(event) for event in events):
        if kind == "last_affected":
            hit = hit and version <= at
        elif version >= at:
            hit = kind == "introduced"
    return hit


def _read(event: Mapping[str, str]) -> tuple[Version, str]:
    """When, and what. A version that Python cannot read counts as the first: so nothing is missed for it."""
    ((kind, text),) = event.items()
    try:
        return Version(text), kind
    except InvalidVersion:
        return Version("0"), kind


def main() -> int:
    parser = argparse.ArgumentParser(prog="audit", description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("advisories", type=Path, help="the zip that OSV publishes of PyPI's advisories")
    path = parser.parse_args().advisories
    if not zipfile.is_zipfile(path):
        parser.error(f"{path} is no zip of advisories; OSV publishes that of PyPI")
    pins = read_pins(CONSTRAINTS)
    found = findings(pins, read_advisories(path))
    print("\n".join(found) if found else f"none of {len(pins)} pinned versions has a known vulnerability")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
