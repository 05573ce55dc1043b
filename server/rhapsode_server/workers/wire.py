"""Messages on the private socket between the front-end and a worker: the length of a pickle, then the pickle."""

import pickle
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

RECEIVE_SIZE = 1 << 16

_LENGTH = struct.Struct("!Q")


def packed(message: object) -> bytes:
    data = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    return _LENGTH.pack(len(data)) + data


@dataclass(slots=True)
class Unpacker:
    """Messages from bytes that arrive in parts."""

    _data: bytearray = field(default_factory=bytearray)

    def feed(self, data: bytes) -> list[Any]:
        """The messages that are complete with these bytes."""
        self._data += data
        messages = []
        while len(self._data) >= (end := self._end_of_message()):
            messages.append(pickle.loads(memoryview(self._data)[_LENGTH.size : end]))
            del self._data[:end]
        return messages

    def _end_of_message(self) -> int:
        has_length = len(self._data) >= _LENGTH.size
        return _LENGTH.size + (_LENGTH.unpack_from(self._data)[0] if has_length else 0)


@dataclass(slots=True, eq=False)
class Outbox:
    """What a socket could not take at once. Not thread-safe."""

    connection: socket.socket
    _data: bytearray = field(default_factory=bytearray)

    @property
    def is_empty(self) -> bool:
        return not self._data

    def send(self, message: object) -> None:
        """Never waits; what the socket does not take goes with the next message, or with `flush`."""
        self._data += packed(message)
        self.push()

    def push(self) -> None:
        """What the socket takes now. Raises OSError when nobody is left to read."""
        with suppress(BlockingIOError):
            while self._data:
                del self._data[: self.connection.send(self._data, socket.MSG_DONTWAIT)]

    def flush(self) -> None:
        """Until the socket has taken all. Raises OSError when nobody is left to read."""
        self.connection.sendall(self._data)
        self._data.clear()
