"""The log as the server writes it, in the process of the test."""

import io
import json
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from typing import Any

from rhapsode_server.logs import configure_logging


@dataclass
class ServerLog:
    """All that was written so far. `shows_content`: as with `--log-prompts on`."""

    stream: io.StringIO
    shows_content: bool

    @property
    def text(self) -> str:
        return self.stream.getvalue()

    @property
    def lines(self) -> list[dict[str, Any]]:
        """Those of the format json."""
        return [json.loads(line) for line in self.text.splitlines()]


@contextmanager
def logging_as_the_server(log_format: str = "json", *, shows_content: bool = False) -> Iterator[ServerLog]:
    root, log = logging.getLogger(), ServerLog(io.StringIO(), shows_content)
    handlers, level, hook = root.handlers[:], root.level, threading.excepthook
    with redirect_stderr(log.stream):
        configure_logging(log_format, shows_content=shows_content)
    try:
        yield log
    finally:
        root.handlers[:], threading.excepthook = handlers, hook
        root.setLevel(level)
        logging.captureWarnings(False)
