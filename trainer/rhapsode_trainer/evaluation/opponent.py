"""What servers say of versions in their feedback directory, and so which one a new model has to beat."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rhapsode_contract.model_directory import CHAMPION, PREVIOUS, ModelFolder, files

from ..errors import ConfigError

_REFUSALS = ("quarantined", "rolled_back")
_VERDICTS = (*_REFUSALS, "serving")
_CANDIDATES = (CHAMPION, PREVIOUS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Opponent:
    """The version to beat, None where there is none, and why better placed ones are out of the contest."""

    version: int | None
    refused: Mapping[int, str]


def find_opponent(folder: ModelFolder, feedback: Path | None) -> Opponent:
    """The champion, unless servers refused it: then the version before it, unless they refused that too.

    Raises ConfigError when the feedback directory or a file in it cannot be understood.
    """
    aliases, refused = folder.aliases(), dict[int, str]()
    for version in (aliases[alias] for alias in _CANDIDATES if alias in aliases):
        reason = refusal(feedback, folder.name, version) if feedback else None
        if reason is None:
            return Opponent(version=version, refused=refused)
        refused[version] = reason
    return Opponent(version=None, refused=refused)


def refused_versions(folder: ModelFolder, feedback: Path | None) -> dict[int, str]:
    """The versions that servers refused, ascending, each with why. Raises ConfigError as `find_opponent` does."""
    if feedback is None:
        return {}
    reasons = {version: refusal(feedback, folder.name, version) for version in folder.versions()}
    return {version: reason for version, reason in reasons.items() if reason is not None}


def refusal(feedback: Path, model: str, version: int) -> str | None:
    """Why servers refused a version, None if none did.

    They write `<feedback>/<model>/<version>.json`, or `<version>.<server>.json` where several share the directory:
    {"schema_version": 1, "verdict": "quarantined" | "rolled_back" | "serving", "reason": "...", "server": "..."}.
    """
    if not feedback.is_dir():
        raise ConfigError(f"--feedback-dir: {feedback}: no such folder")
    for path in sorted((feedback / model).glob(f"{version}.*")):
        document = _read_feedback(path) if path.suffix == ".json" else None
        if document and document["verdict"] in _REFUSALS:
            return f"{document['verdict']} by {document['server']}: {document['reason']}"
    return None


def _read_feedback(path: Path) -> dict[str, str]:
    try:
        document = json.loads(files.read_file(path))
        known = document["schema_version"] == 1 and document["verdict"] in _VERDICTS
        result = {name: str(document[name]) for name in ("verdict", "reason", "server")}
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise ConfigError(f"--feedback-dir: {path}: not a server's verdict: {error!r}") from None
    if not known:
        raise ConfigError(f"--feedback-dir: {path}: schema_version 1 and one of {', '.join(_VERDICTS)} are expected")
    return result
