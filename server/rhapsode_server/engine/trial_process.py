"""The process in which constraints are tried, `python -m rhapsode_server.engine.trial_process FILE SIZE FD PARENT`."""

import os
import queue
import random
import resource
import sys
import threading
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path

from rhapsode_server.engine.matcher import Matcher, Vocabulary, translate
from rhapsode_server.engine.refusal import BadConstraint
from rhapsode_server.engine.request import Constraint
from rhapsode_server.engine.system import end_with_parent
from rhapsode_server.engine.trial import Failed, Passed

# Of a walk at random through the form.
NUM_TOKENS = 32
# What a constraint may take in the worker.
MAX_MEMORY = 64 << 20
# Far beyond that the system steps in. It counts addresses, of which the interpreter alone has many.
_MAX_ADDRESS_SPACE = 2 << 30
# Threads of the worker have more: what does not overflow this will not overflow that.
_STACK_SIZE = 1 << 20
_LIBRARY_FAILED = "it is too complex: the library failed"


def main() -> None:
    file, size, descriptor, parent = sys.argv[1:]
    # Whatever the library does, and even if it never lets the thread below run.
    end_with_parent(int(parent))
    connection = Connection(int(descriptor))
    inbox: queue.SimpleQueue[Constraint] = queue.SimpleQueue()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (_MAX_ADDRESS_SPACE, _MAX_ADDRESS_SPACE))
    threading.stack_size(_STACK_SIZE)
    threading.Thread(target=_serve, args=(connection, inbox, Path(file), int(size)), daemon=True).start()
    # This thread is free to notice that the worker is gone, whatever the library does.
    with suppress(EOFError, OSError):
        while True:
            inbox.put(connection.recv())
    os._exit(0)


def _serve(connection: Connection, inbox: "queue.SimpleQueue[Constraint]", file: Path, size: int) -> None:
    try:
        vocabulary = Vocabulary(file, size)
    except BadConstraint as error:
        connection.send(Failed(error.detail, spent=True))
        return
    except BaseException:  # a panic of the library, say
        connection.send(Failed(_LIBRARY_FAILED, spent=True))
        return
    connection.send(Passed())
    memory_before = _peak_memory()
    while True:
        verdict = _try(inbox.get(), vocabulary)
        used = _peak_memory() - memory_before
        if used > MAX_MEMORY:
            verdict = Failed(f"it is too complex: it takes {used >> 20} MiB", spent=True)
        connection.send(verdict)


def _try(constraint: Constraint, vocabulary: Vocabulary) -> Passed | Failed:
    try:
        grammar = translate(constraint)
        _walk(grammar, vocabulary)
    except BadConstraint as error:
        return Failed(error.detail)
    except BaseException:  # a panic of the library, say
        return Failed(_LIBRARY_FAILED, spent=True)
    return Passed(grammar)


def _walk(grammar: str, vocabulary: Vocabulary) -> None:
    matcher = vocabulary.matcher(grammar, end_ids=())
    generator = random.Random(0)
    for _ in range(NUM_TOKENS):
        if matcher.is_complete:
            break
        matcher.accept(_draw(matcher, generator))


def _draw(matcher: Matcher, generator: random.Random) -> int:
    allowed = int.from_bytes(matcher.allowed_mask(), "little")
    above = allowed >> (start := generator.randrange(allowed.bit_length()))
    return start + (above & -above).bit_length() - 1


def _peak_memory() -> int:
    """In bytes; 0 where the system does not tell. What `getrusage` says begins with the peak of the parent."""
    with suppress(FileNotFoundError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) << 10
    return 0


if __name__ == "__main__":
    main()
