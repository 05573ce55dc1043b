"""The connection to an engine process. Everything here runs on the event loop."""

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from rhapsode_server.workers.launcher import Launched
from rhapsode_server.workers.messages import FromWorker, ToWorker
from rhapsode_server.workers.wire import RECEIVE_SIZE, Outbox


@dataclass(slots=True, kw_only=True, eq=False)
class Channel:
    """Calls `on_message` for each message, then `on_closed` when no more will come, then `on_exit` with the exit code
    of the process.

    No thread reads: while the loop is busy it would wait for the interpreter's lock several times a message, and the
    engine for the socket. What has come meanwhile is read at once.
    """

    launched: Launched
    on_message: Callable[[FromWorker], None]
    on_closed: Callable[[], None]
    on_exit: Callable[[int], None]
    _loop: asyncio.AbstractEventLoop = field(init=False)
    _outbox: Outbox = field(init=False)
    _is_open: bool = False

    def open(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._outbox = Outbox(self.launched.connection)
        self.launched.connection.setblocking(False)
        self._loop.add_reader(self.launched.connection, self._read)
        self._is_open = True

    @property
    def process_id(self) -> int:
        return self.launched.process.pid

    def send(self, message: ToWorker) -> None:
        """Soon. Never waits; what the process does not take any more is dropped."""
        if not self._is_open:
            return
        is_waiting = not self._outbox.is_empty
        try:
            self._outbox.send(message)
        except OSError:
            return  # The reader sees the same end and says so.
        if not is_waiting and not self._outbox.is_empty:
            self._loop.add_writer(self.launched.connection, self._write)

    def kill(self) -> None:
        self.launched.process.kill()

    def _read(self) -> None:
        try:
            data = self.launched.connection.recv(RECEIVE_SIZE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        for message in self.launched.incoming.feed(data):
            self._loop.call_soon(self.on_message, message)
        if not data:
            self._close()

    def _write(self) -> None:
        try:
            self._outbox.push()
            is_done = self._outbox.is_empty
        except OSError:
            is_done = True
        if is_done:
            self._loop.remove_writer(self.launched.connection)

    def _close(self) -> None:
        self._is_open = False
        self._loop.remove_reader(self.launched.connection)
        self._loop.remove_writer(self.launched.connection)
        self.launched.connection.close()
        self._loop.call_soon(self.on_closed)
        threading.Thread(target=self._wait_for_exit, daemon=True).start()

    def _wait_for_exit(self) -> None:
        self._loop.call_soon_threadsafe(self.on_exit, self.launched.process.wait())
