"""Exit codes, and how a failure is told to a person."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from enum import IntEnum
from typing import TypeVar

import typer

from rhapsode_client import Client, errors
from rhapsode_client.admin import AdminClient
from rhapsode_client.blocking import BlockingClient
from rhapsode_client.cli.target import Target
from rhapsode_client.cli.terminal import abandon_output, note

ClientT = TypeVar("ClientT", bound=BlockingClient)

_START_ONE = """\
  start one with: rhapsode-serve --models ./models
  or name another with --address HOST:PORT or RHAPSODE_ADDRESS"""
_FIND_ITS_ADDRESS = """\
  its AdminService listens where rhapsode-serve --admin-address says, and says so when it starts
  name it with --address HOST:PORT or RHAPSODE_ADMIN_ADDRESS"""


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


def explanation(error: errors.RhapsodeError, client: BlockingClient) -> str:
    """What went wrong and, where it is known, what to do: the text of a message to a person."""
    lines = [f"rhapsode: {_headline(error, client)}"]
    if isinstance(error, errors.InvalidRequest):
        lines += [f"  {field}: {text}" for field, text in error.violations if text not in lines[0]]
    if isinstance(error, errors.Retryable) and error.retry_after is not None:
        lines.append(f"  try again in {error.retry_after:g} s")
    if isinstance(error, errors.Unauthenticated):
        lines.append("  give --token, or better RHAPSODE_TOKEN")
    if error.request_id:
        lines.append(f"  request id: {error.request_id}")
    return "\n".join(lines)


def _headline(error: errors.RhapsodeError, client: BlockingClient) -> str:
    if isinstance(error, errors.Unavailable) and error.retry_after is None:
        advice = _FIND_ITS_ADDRESS if isinstance(client, AdminClient) else _START_ONE
        return f"no answer from a server at {client.address}: {error}\n{advice}"
    if isinstance(error, errors.ServerError) and isinstance(client, AdminClient) and not error.request_id:
        return f"no AdminService answers at {client.address}: {error}\n{_FIND_ITS_ADDRESS}"
    return str(error)


@contextmanager
def _ending_with_code(client: ClientT) -> Iterator[ClientT]:
    """The client for the body of a command; what goes wrong in there ends the command with its exit code."""
    with client:
        try:
            yield client
        except errors.RhapsodeError as error:
            note(explanation(error, client))
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


def connected(target: Target) -> AbstractContextManager[Client]:
    """A client of the server, for the body of a command."""
    return _ending_with_code(_made(Client, target))


def connected_admin(target: Target) -> AbstractContextManager[AdminClient]:
    """A client of the server's AdminService, for the body of a command."""
    return _ending_with_code(_made(AdminClient, target))


def _made(kind: Callable[..., ClientT], target: Target) -> ClientT:
    try:
        return kind(**target)
    except ValueError as error:
        name, colon, text = str(error).partition(": ")
        note(f"rhapsode: --{name.replace('_', '-')}: {text}" if colon else f"rhapsode: {error}")
        raise typer.Exit(ExitCode.INVALID) from None
