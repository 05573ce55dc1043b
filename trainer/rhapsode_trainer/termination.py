"""Why a run ended, where Kubernetes looks for it: `kubectl describe pod` shows what this file holds."""

import os
from contextlib import suppress
from pathlib import Path

from .publish.printable import printable

# Kubernetes takes no more.
_MAX_BYTES = 4096


def note_termination(reason: str) -> None:
    """Write it if the file is there: Kubernetes makes it. RHAPSODE_TERMINATION_LOG names another one. Never fails."""
    file = Path(os.environ.get("RHAPSODE_TERMINATION_LOG") or "/dev/termination-log")
    with suppress(OSError):
        # A pipe or a device would be waited for.
        if file.is_file():
            file.write_bytes(printable(reason).encode()[:_MAX_BYTES].decode(errors="ignore").encode())
