"""Constraints are tried in a process of their own first.

Some make the library compute for minutes, fill the memory or overflow the stack. There that costs nobody but the
constraint itself: the process is killed and another takes its place. What passes is then built where it is needed.
"""

import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final

from rhapsode_server.engine.refusal import BadConstraint
from rhapsode_server.engine.request import Constraint

_PROCESS = "rhapsode_server.engine.trial_process"
_START_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Passed:
    """The constraint in the words of the library; empty when the process says that it is ready."""

    grammar: str = ""


@dataclass(frozen=True, slots=True)
class Failed:
    """Why the constraint is bad. `spent`: the process is of no more use."""

    detail: str
    spent: bool = False


class Trial:
    """Tries constraints, one at a time. Its process starts at the first."""

    def __init__(self, tokenizer_file: Path, vocabulary_size: int, time_limit: float) -> None:
        """`time_limit` in seconds, for each."""
        self._command: Final = (sys.executable, "-m", _PROCESS, str(tokenizer_file), str(vocabulary_size))
        self._time_limit: Final = time_limit
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None

    def prove(self, constraint: Constraint) -> str:
        """The constraint in the words of the library. Raises BadConstraint, after the time limit at the latest."""
        connection = self._connection or self._start()
        try:
            connection.send(constraint)
            return self._verdict(connection, self._time_limit)
        except (EOFError, OSError):
            self.close()
            raise BadConstraint("it is too complex: it nests too deep or takes too much memory to prepare") from None

    def close(self) -> None:
        """End the process, whatever it does. The next constraint would start another."""
        if self._process and self._connection:
            self._connection.close()
            self._process.kill()
            self._process.wait()
        self._process = self._connection = None

    def _start(self) -> Connection:
        ours, theirs = socket.socketpair()
        self._connection = Connection(ours.detach())
        with theirs:
            self._process = subprocess.Popen(
                [*self._command, str(theirs.fileno()), str(os.getpid())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,  # where the library would describe how it failed
            )
        try:
            self._verdict(self._connection, _START_SECONDS)
        except EOFError:
            self.close()
            raise
        return self._connection

    def _verdict(self, connection: Connection, time_limit: float) -> str:
        if not connection.poll(time_limit):
            self.close()
            raise BadConstraint(f"it takes longer than {time_limit:g} s to prepare")
        verdict: Passed | Failed = connection.recv()
        if isinstance(verdict, Passed):
            return verdict.grammar
        if verdict.spent:
            self.close()
        raise BadConstraint(verdict.detail)
