"""The worker process: one engine, fed and read through a socket.

`python -m rhapsode_server.workers.process FD PARENT GIVES_WAY LOG_FORMAT LOG_PROMPTS`: the socket, the front-end's
process id, 1 if others serve meanwhile, and what the front-end's flags of these names say. torch is imported before it
is known what to load, so that a process can wait in readiness, but never by the front-end, which imports only the
messages.
"""

import os
import queue
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import NoReturn, TypeVar

from rhapsode_server.engine.engine import Engine
from rhapsode_server.engine.grammar import Grammars
from rhapsode_server.engine.refusal import ModelRefused, is_out_of_memory
from rhapsode_server.engine.system import end_with_parent, lower_priority
from rhapsode_server.engine.usage import measure_usage
from rhapsode_server.logs import configure_logging
from rhapsode_server.workers.constraints import Constraining, Prepared
from rhapsode_server.workers.exits import ExitReason
from rhapsode_server.workers.messages import (
    Cancel,
    Crashed,
    Imported,
    Ping,
    Pong,
    Ready,
    Refused,
    Stage,
    Start,
    Step,
    Submit,
    ToWorker,
)
from rhapsode_server.workers.wire import RECEIVE_SIZE, Outbox, Unpacker

T = TypeVar("T")
Inbox = queue.SimpleQueue[ToWorker | Prepared]


def main() -> None:
    descriptor, parent, gives_way = map(int, sys.argv[1:4])
    log_format, log_prompts = sys.argv[4:]
    configure_logging(log_format, shows_content=log_prompts == "on")
    end_with_parent(parent)
    connection = socket.socket(fileno=descriptor)
    inbox, outbox = Inbox(), Outbox(connection)
    threading.Thread(target=_read, args=(connection, inbox), daemon=True).start()
    try:
        _call(_import_engine, gives_way=bool(gives_way))
        outbox.send(Imported())
        start = inbox.get()
        assert isinstance(start, Start)
        options, (engine, device) = start.options, _build(start, outbox)
        grammars = Grammars(Path(options.path) / "tokenizer.json", vocabulary_size=options.vocabulary_size)
        _pin_threads(device)
        run(engine, Constraining(engine, grammars, notify=inbox.put), inbox, outbox, device=device)
    except ModelRefused as refusal:
        outbox.send(Refused(reason=refusal.reason, detail=refusal.detail))
        outbox.flush()
    except Exception as error:
        reason = ExitReason.OUT_OF_MEMORY if is_out_of_memory(error) else ExitReason.CRASHED
        outbox.send(Crashed(traceback.format_exc(), reason))
        outbox.flush()
        sys.exit(1)


def run(engine: Engine, constraining: Constraining, inbox: Inbox, outbox: Outbox, *, device: str = "cpu") -> NoReturn:
    """Step while there is work, wait for messages while there is none, until the process is killed."""
    while True:
        if not engine.has_work:
            outbox.flush()
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
                case Ping():
                    outbox.send(Pong(measure_usage(device)))
        constraining.end_what_is_due()
        news = constraining.take_news()
        if engine.has_work or news.events:
            began = time.perf_counter()
            result = engine.step()
            outbox.send(Step.of(result, time.perf_counter() - began, news.prepared, earlier=news.events))


def _messages(inbox: Inbox, timeout: float | None) -> Iterator[ToWorker | Prepared]:
    """All that have come; if there is none, the next one within so many seconds (None: whenever)."""
    with suppress(queue.Empty):
        yield inbox.get(timeout=timeout)
    while not inbox.empty():
        yield inbox.get()


def _read(connection: socket.socket, inbox: Inbox) -> None:
    """Until the front-end is gone; then nobody is left to work for, whatever the engine is doing."""
    unpacker = Unpacker()
    with suppress(OSError):
        while data := connection.recv(RECEIVE_SIZE):
            for message in unpacker.feed(data):
                inbox.put(message)
    os._exit(0)


def _build(start: Start, outbox: Outbox) -> tuple[Engine, str]:
    """The engine, and the device on which it computes."""
    from rhapsode_server.engine.build import build_engine, use_threads
    from rhapsode_server.engine.first_answer import answer_once

    def tell(stage: str) -> None:
        outbox.send(Stage(stage))

    built = _call(
        lambda: build_engine(start.options, tell, gives_way=start.gives_way),
        gives_way=start.gives_way,
    )
    # How many threads compute belongs to the thread that starts them.
    use_threads(start.options)
    answer_once(built.engine, start.options.vocabulary_size)
    outbox.send(
        Ready(
            device=str(built.loaded.device),
            dtype=built.loaded.dtype,
            parameter_count=built.loaded.parameter_count,
            context_length=built.context_length,
            memory_bytes=built.memory_bytes,
            canary=built.canary,
        )
    )
    return built.engine, str(built.loaded.device)


def _pin_threads(device: str) -> None:
    """Last: threads that were started before may run anywhere."""
    from rhapsode_server.engine.pinning import pin_threads

    if device == "cpu":
        pin_threads()


def _import_engine() -> None:
    from transformers.utils import logging as transformers_logging

    import rhapsode_server.engine.build  # noqa: F401

    # Its lines look like ours.
    transformers_logging.disable_default_handler()
    transformers_logging.enable_propagation()


def _call(function: Callable[[], T], *, gives_way: bool) -> T:
    """In a thread of low priority if it gives way: there is no way back from that, and this thread will serve."""
    if not gives_way:
        return function()
    with ThreadPoolExecutor(1, initializer=lower_priority) as background:
        return background.submit(function).result()


if __name__ == "__main__":
    main()
