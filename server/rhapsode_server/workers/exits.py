"""Why engine processes end."""

from enum import StrEnum


class ExitReason(StrEnum):
    """The first cause: one that hung, for example, was killed for it, and counts as hung."""

    STOPPED = "stopped"
    """It was told to."""
    REFUSED = "refused"
    """It said that it cannot run the model."""
    CRASHED = "crashed"
    """A bug, or a device that failed."""
    KILLED = "killed"
    """By a signal from outside, such as the system's when memory runs out."""
    HUNG = "hung"
    """It gave no sign of life."""
    LOAD_TIMEOUT = "load_timeout"
    """It was not ready in time."""
    OUT_OF_MEMORY = "out_of_memory"
    """An allocation failed while it served."""


def exit_reason(code: int) -> ExitReason:
    """Of a process that ended with this code (negative: a signal) and gave no other reason."""
    return ExitReason.KILLED if code < 0 else ExitReason.CRASHED
