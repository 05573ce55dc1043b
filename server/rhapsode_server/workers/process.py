"""The worker process, `python -m rhapsode_server.workers.process FD`: one engine, fed and read through a socket.

torch is imported when the engine is built, never by the front-end, which imports only the messages.
"""

import os
import queue
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NoReturn

from rhapsode_server.engine.engine import Engine
from rhapsode_server.engine.grammar import Grammars
from rhapsode_server.engine.refusal import ModelRefused
from rhapsode_server.workers.constraints import Constraining, Prepared
from rhapsode_server.workers.messages import Cancel, Crashed, Ready, Refused, Start, Step, Submit, ToWorker, Warming

Inbox = queue.SimpleQueue[ToWorker | Prepared]


def main() -> None:
    connection = Connection(int(sys.argv[1]))
    inbox: Inbox = queue.SimpleQueue()
    threading.Thread(target=_read, args=(connection, inbox), daemon=True).start()
    start = inbox.get()
    assert isinstance(start, Start)
    try:
        engine = _build(connection, start)
        tokenizer_file = Path(start.options.path) / "tokenizer.json"
        grammars = Grammars(tokenizer_file, vocabulary_size=start.options.vocabulary_size)
        run(engine, Constraining(engine, grammars, notify=inbox.put), inbox, connection)
    except ModelRefused as refusal:
        connection.send(Refused(reason=refusal.reason, detail=refusal.detail))
    except Exception:
        connection.send(Crashed(traceback.format_exc()))
        sys.exit(1)


def run(engine: Engine, constraining: Constraining, inbox: Inbox, connection: Connection) -> NoReturn:
    """Step while there is work, wait for messages while there is none, until the process is killed."""
    while True:
        for message in _messages(inbox, 0.0 if engine.has_work else constraining.seconds_left):
            match message:
                case Submit(request) if request.constraint:
                    constraining.begin(request)
                case Submit(request):
                    engine.submit(request)
                case Prepared(request):
                    constraining.finish(request)
                case Cancel(request_id):
                    constraining.cancel(request_id)
                    engine.cancel(request_id)
        constraining.end_what_is_due()
        news = constraining.take_news()
        if engine.has_work or news.events:
            began = time.perf_counter()
            result = engine.step()
            result = replace(result, events=[*news.events, *result.events])
            connection.send(Step(result=result, seconds=time.perf_counter() - began, prepared=news.prepared))


def _messages(inbox: Inbox, timeout: float | None) -> Iterator[ToWorker | Prepared]:
    """All that have come; if there is none, the next one within so many seconds (None: whenever)."""
    with suppress(queue.Empty):
        yield inbox.get(timeout=timeout)
    while not inbox.empty():
        yield inbox.get()


def _read(connection: Connection, inbox: Inbox) -> None:
    """Until the front-end is gone; then nobody is left to work for, whatever the engine is doing."""
    try:
        while True:
            inbox.put(connection.recv())
    except (EOFError, OSError):
        os._exit(0)


def _build(connection: Connection, start: Start) -> Engine:
    from rhapsode_server.engine.build import build_engine

    built = build_engine(start.options, on_loaded=lambda: connection.send(Warming()))
    loaded = built.loaded
    connection.send(
        Ready(
            device=str(loaded.device),
            dtype=loaded.dtype,
            parameter_count=loaded.parameter_count,
            context_length=built.context_length,
        )
    )
    return built.engine


if __name__ == "__main__":
    main()
