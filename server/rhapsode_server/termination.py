"""Why the server ended, where Kubernetes looks for it: `kubectl describe pod` shows what this file holds."""

from contextlib import suppress
from pathlib import Path

from rhapsode_server.printable import printable

# Kubernetes takes no more.
_MAX_BYTES = 4096


def note_termination(file: Path | None, reason: str) -> None:
    """Write it if the file is there: Kubernetes makes it. Never fails."""
    with suppress(OSError):
        # A pipe or a device would be waited for.
        if file is not None and file.is_file():
            lines = "\n".join(map(printable, reason.split("\n")))
            file.write_bytes(lines.encode()[:_MAX_BYTES].decode(errors="ignore").encode())
