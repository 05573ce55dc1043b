"""Exit codes, and how a failure is told to a person."""

from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum

import typer

from rhapsode_client import Client, errors
from rhapsode_client.cli.terminal import abandon_output, note


class ExitCode(IntEnum):
    """How a command ended."""

    OK = 0
    FAILED = 1
    INVALID = 2
    NOT_FOUND = 3
    UNAVAILABLE = 4
    DEADLINE_EXCEEDED = 5
    INTERRUPTED = 130


def exit_code(error: errors.RhapsodeError) -> ExitCode:
    """The exit code that stands for `error`."""
    match error:
        case errors.InvalidRequest():
            return ExitCode.INVALID
        case errors.NotFound():
            return ExitCode.NOT_FOUND
        case errors.Retryable():
            return ExitCode.UNAVAILABLE
        case errors.DeadlineExceeded():
            return ExitCode.DEADLINE_EXCEEDED
    return ExitCode.FAILED


def explanation(error: errors.RhapsodeError, address: str) -> str:
    """What went wrong and, where it is known, what to do: the text of a message to a person."""
    lines = [f"rhapsode: {_headline(error, address)}"]
    if isinstance(error, errors.InvalidRequest):
        lines += [f"  {field}: {text}" for field, text in error.violations if text not in lines[0]]
    if isinstance(error, errors.Retryable) and error.retry_after is not None:
        lines.append(f"  try again in {error.retry_after:g} s")
    if error.request_id:
        lines.append(f"  request id: {error.request_id}")
    return "\n".join(lines)


def _headline(error: errors.RhapsodeError, address: str) -> str:
    if isinstance(error, errors.Unavailable) and error.retry_after is None:
        return (
            f"no answer from a server at {address}: {error}\n"
            "  start one with: rhapsode-serve --models ./models\n"
            "  or name another with --address HOST:PORT or RHAPSODE_ADDRESS"
        )
    return str(error)


@contextmanager
def connected(address: str | None, timeout: float | None) -> Iterator[Client]:
    """A client for the body of a command; what goes wrong in there ends the command with its exit code."""
    with Client(address, timeout=timeout) as client:
        try:
            yield client
        except errors.RhapsodeError as error:
            note(explanation(error, client.address))
            raise typer.Exit(exit_code(error)) from None
        except KeyboardInterrupt:
            raise typer.Exit(ExitCode.INTERRUPTED) from None
        except BrokenPipeError:
            # The reader has had enough, as in `rhapsode generate ... | head`.
            abandon_output()
            raise typer.Exit(ExitCode.OK) from None
        except OSError as error:
            note(f"rhapsode: standard input or output failed: {error.strerror}")
            abandon_output()
            raise typer.Exit(ExitCode.FAILED) from None
