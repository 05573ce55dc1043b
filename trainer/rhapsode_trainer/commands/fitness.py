"""May a person send servers to a version?"""

from rhapsode_contract.model_directory import ModelFolder, verify_version

from ..errors import GateRejected
from .records import read_json


def check_fit(folder: ModelFolder, version: int, *, force: bool) -> bool:
    """Whether the gate let the version pass; all its files verify.

    Raises GateRejected (its gate refused it and `force` is not given), VerificationError, SourceError (evaluation.json
    cannot be understood), NoSuchModel, NoSuchVersion.
    """
    path = folder.version_path(version)
    verify_version(path)
    verdict = read_json(path / "evaluation.json").get("verdict")
    refused = isinstance(verdict, dict) and not verdict.get("accepted", False)
    if refused and not force:
        raise GateRejected(f"{folder.name} {version}: its gate refused it; --force takes it all the same")
    return not refused


def how_fit(how: str, fit: bool) -> str:
    """For the history."""
    return how if fit else f"{how}, forced: its gate refused it"
