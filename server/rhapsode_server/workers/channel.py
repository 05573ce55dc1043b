"""The connection to an engine process, with a thread that reads and one that writes."""

import asyncio
import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from rhapsode_server.workers.launcher import Launched
from rhapsode_server.workers.messages import FromWorker, ToWorker


@dataclass(slots=True, kw_only=True, eq=False)
class Channel:
    """All callbacks come on the event loop: `on_message` for each message, then `on_closed` when no more will come,
    then `on_exit` with the exit code of the process."""

    launched: Launched
    on_message: Callable[[FromWorker], None]
    on_closed: Callable[[], None]
    on_exit: Callable[[int], None]
    _outbox: "queue.SimpleQueue[ToWorker | None]" = field(default_factory=queue.SimpleQueue)

    def open(self) -> None:
        loop = asyncio.get_running_loop()
        threading.Thread(target=self._read, args=(loop,), daemon=True).start()
        threading.Thread(target=self._write, daemon=True).start()

    @property
    def process_id(self) -> int:
        return self.launched.process.pid

    def send(self, message: ToWorker) -> None:
        """Soon. Never waits; what the process does not take any more is dropped."""
        self._outbox.put(message)

    def kill(self) -> None:
        self.launched.process.kill()

    def _read(self, loop: asyncio.AbstractEventLoop) -> None:
        with suppress(EOFError, OSError):
            while True:
                loop.call_soon_threadsafe(self.on_message, self.launched.connection.recv())
        loop.call_soon_threadsafe(self.on_closed)
        self._outbox.put(None)
        loop.call_soon_threadsafe(self.on_exit, self.launched.process.wait())

    def _write(self) -> None:
        with self.launched.connection as connection:
            while (message := self._outbox.get()) is not None:
                # The reader sees the same end and says so.
                with suppress(OSError):
                    connection.send(message)
