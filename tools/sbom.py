"""Writes a bill of materials of what each image installs, in CycloneDX: server.cdx.json and trainer.cdx.json.

python tools/sbom.py [FOLDER]    (build/sbom)

Versions, licences and what asks for what come from this environment, which has the pinned versions of both.
"""

import json
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import Distribution
from pathlib import Path
from typing import Any

from dependencies import NotInstalledError, dependencies
from packaging.utils import canonicalize_name

FOLDER = Path(__file__).resolve().parents[1] / "build" / "sbom"
# With the extras that the images install.
TARGETS = {"server": "rhapsode-server[otel,openai]", "trainer": "rhapsode-trainer[text,stories,lora,sweep]"}


def describe_environment() -> dict[str, Any]:
    """All that is installed here, as CycloneDX has it."""
    command = [sys.executable, "-m", "cyclonedx_py", "environment", "--no-validate", "--output-format", "JSON"]
    command.append(sys.executable)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"sbom: {done.stderr.strip()}")
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def select(document: dict[str, Any], root: str, licences: Mapping[str, str]) -> dict[str, Any]:
    """The same of these distributions alone; `root` is the one that it is about.

    `licences`, by canonical name, are taken where the document has none: it knows only those of SPDX.
    """
    chosen = {
        each["bom-ref"]: {"licenses": [{"license": {"name": licences[name]}}], **each}
        for each in document["components"]
        if (name := canonicalize_name(each["name"])) in licences
    }
    (subject,) = (ref for ref, each in chosen.items() if canonicalize_name(each["name"]) == root)
    asked_for = {each["ref"]: each.get("dependsOn", []) for each in document["dependencies"]}
    return {
        **{key: document[key] for key in ("$schema", "bomFormat", "specVersion", "version")},
        "metadata": {**document["metadata"], "component": {**chosen.pop(subject), "type": "application"}},
        "components": list(chosen.values()),
        "dependencies": [
            {"ref": ref, "dependsOn": [each for each in asked_for.get(ref, []) if each in chosen]}
            for ref in (subject, *chosen)
        ],
    }


def main(folder: Path) -> None:
    """Raises NotInstalledError."""
    sets = {target: dependencies([line]) for target, line in TARGETS.items()}
    document = describe_environment()
    folder.mkdir(parents=True, exist_ok=True)
    for target, distributions in sets.items():
        path = folder / f"{target}.cdx.json"
        chosen = select(document, f"rhapsode-{target}", licences(distributions))
        path.write_text(json.dumps(chosen, indent=2) + "\n", "utf-8")
        print(f"{path}: {len(distributions)} distributions")


def licences(distributions: Mapping[str, Distribution]) -> dict[str, str]:
    """What each calls its licence in its own words."""
    return {name: str(each.metadata.json.get("license", "not stated")) for name, each in distributions.items()}


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
    except NotInstalledError as error:
        sys.exit(f"sbom: {error}")
