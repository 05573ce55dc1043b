"""What this server thinks of versions, for the trainer's gate and its garbage collection to read."""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from rhapsode_contract.model_directory.files import make_directory, replace_file

logger = logging.getLogger("rhapsode.models")

Verdict = Literal["serving", "quarantined", "rolled_back"]


@dataclass(slots=True, eq=False)
class Feedback:
    """Writes verdicts to `<directory>/<model>/<version>.<server>.json`; without a directory it writes nothing.

    `server` is this server's name among those that share the directory; it must be usable in the name of a file.
    """

    directory: Path | None
    server: str

    def write(self, model: str, version: int, verdict: Verdict, reason: str) -> None:
        """Replaces this server's verdict on the version; one writer at a time.

        Waits for the disk; one that refuses is a line in the log.
        """
        if self.directory is None:
            return
        document = {
            "schema_version": 1,
            "verdict": verdict,
            "reason": reason,
            "server": self.server,
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        try:
            self._replace(self.directory / model / f"{version}.{self.server}.json", document)
        except OSError as error:
            logger.warning("%s version %d: the verdict %r could not be written: %s", model, version, verdict, error)

    def _replace(self, file: Path, document: Mapping[str, object]) -> None:
        make_directory(file.parent)
        replace_file(file, json.dumps(document, indent=2).encode() + b"\n")
