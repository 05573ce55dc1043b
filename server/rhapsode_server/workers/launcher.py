"""Starts engine processes, and keeps one in reserve that has imported what the next worker needs."""

import asyncio
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from rhapsode_server.workers.messages import Crashed
from rhapsode_server.workers.wire import RECEIVE_SIZE, Unpacker

# After a standby was lost: what ended it, full memory for example, may end the next as well.
_PAUSE_SECONDS = 30.0

logger = logging.getLogger("rhapsode.workers")


@dataclass(frozen=True, slots=True)
class Launched:
    """A process that awaits its Start, and what has come from it so far.

    `is_standby`: it has imported everything already. `gives_way`: it is to load at low priority.
    """

    process: "subprocess.Popen[bytes]"
    connection: socket.socket
    is_standby: bool = False
    gives_way: bool = True
    incoming: Unpacker = field(default_factory=Unpacker)


@dataclass(slots=True, kw_only=True, eq=False)
class Launcher:
    """Call it from the event loop's thread only: the system ends a process when the thread that started it ends.

    What it starts gives way to workers that serve, which count themselves in `num_serving`. `on_change` hears when
    `standby_ready` may have changed. The processes log in `log_format`, what callers send only if they `log_prompts`.
    """

    keep_standby: bool
    log_format: str = "text"
    log_prompts: bool = False
    on_change: Callable[[], None] = lambda: None
    num_serving: int = field(default=0, init=False)
    _standby: Launched | None = None
    _retry: asyncio.TimerHandle | None = None
    _is_ready: bool = field(default=False, init=False)

    @property
    def standby_ready(self) -> bool:
        return self._is_ready

    def launch(self) -> Launched:
        """The standby, even if it still imports, else a new process."""
        gives_way, is_ready = self.num_serving > 0, self._is_ready
        standby = self._take_standby()
        if standby and standby.process.poll() is None:
            return replace(standby, is_standby=is_ready, gives_way=gives_way)
        if standby:
            standby.connection.close()
        return self._start(gives_way=gives_way)

    def refill(self) -> None:
        """Begin to make a standby if there is to be one and is none."""
        if self.keep_standby and self._standby is None:
            self._standby = self._start(gives_way=True)
            asyncio.get_running_loop().add_reader(self._standby.connection.fileno(), self._hear)

    async def stop(self) -> None:
        """End the standby, for good."""
        self.keep_standby = False
        if self._retry:
            self._retry.cancel()
        if standby := self._take_standby():
            await asyncio.to_thread(_end, standby)

    def _start(self, *, gives_way: bool) -> Launched:
        return _spawn(self.log_format, "on" if self.log_prompts else "off", gives_way=gives_way)

    def _take_standby(self) -> Launched | None:
        standby, self._standby = self._standby, None
        if standby:
            asyncio.get_running_loop().remove_reader(standby.connection.fileno())
            self._set_ready(False)
        return standby

    def _hear(self) -> None:
        assert self._standby
        try:
            data = self._standby.connection.recv(RECEIVE_SIZE)
        except OSError:
            data = b""
        if not data:
            self._lose()
            return
        for message in self._standby.incoming.feed(data):
            if isinstance(message, Crashed):
                logger.error("the standby process failed", extra={"fields": {"traceback": message.traceback}})
            else:
                self._set_ready(True)

    def _lose(self) -> None:
        standby = self._take_standby()
        assert standby
        _end(standby)
        logger.warning("the standby process ended; another is started in %g s", _PAUSE_SECONDS)
        self._retry = asyncio.get_running_loop().call_later(_PAUSE_SECONDS, self.refill)

    def _set_ready(self, is_ready: bool) -> None:
        self._is_ready = is_ready
        self.on_change()


def _spawn(*log_settings: str, gives_way: bool) -> Launched:
    ours, theirs = socket.socketpair()
    with theirs:
        arguments = [str(int(each)) for each in (theirs.fileno(), os.getpid(), gives_way)]
        command = [sys.executable, "-m", "rhapsode_server.workers.process", *arguments, *log_settings]
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        # A group of its own: Ctrl-C in a terminal reaches the front-end alone, which drains before it stops us. Not a
        # session: Linux shares out the processors by session first, and a low priority counts inside one only.
        process = subprocess.Popen(
            command, pass_fds=[theirs.fileno()], env=environment, stdin=subprocess.DEVNULL, process_group=0
        )
    return Launched(process, ours, gives_way=gives_way)


def _end(launched: Launched) -> None:
    launched.connection.close()
    launched.process.kill()
    launched.process.wait()
