"""The log: one line an event on stderr, as text or as JSON. `extra={"fields": {...}}` adds fields to a line.

A line that is written while a request is answered carries the request's id. What callers send and get is in no line
unless it is asked for: tracebacks of such lines come without the texts of their exceptions, which may quote it.
"""

import json
import logging
import math
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from rhapsode_server.printable import printable

logger = logging.getLogger("rhapsode")


class Identified(Protocol):
    """A request; its id may become known while it is answered."""

    request_id: str


@dataclass(slots=True)
class _Scope:
    """Tasks that outlive the request they were started in keep its context, but find None here."""

    request: Identified | None


_scope: ContextVar[_Scope] = ContextVar("request", default=_Scope(None))  # noqa: B039  (the default is never changed)


@contextmanager
def answering(request: Identified) -> Iterator[None]:
    """Lines written meanwhile, by this task and by those that it starts, carry the id of `request`."""
    scope = _Scope(request)
    before = _scope.set(scope)
    try:
        yield
    finally:
        scope.request = None
        _scope.reset(before)


def current_request_id() -> str:
    """Of the request that is answered here; empty where there is none."""
    request = _scope.get().request
    return request.request_id if request else ""


class RequestFilter(logging.Filter):
    """Adds the request's id to a record, and takes the texts of exceptions out of one that has it."""

    def __init__(self, *, shows_content: bool) -> None:
        super().__init__()
        self._shows_content = shows_content

    def filter(self, record: logging.LogRecord) -> bool:
        fields = _fields(record)
        if "request_id" not in fields and (request_id := current_request_id()):
            record.fields = fields = {"request_id": request_id, **fields}
        if record.exc_info and not self._shows_content and {"request_id", "request_ids"} & fields.keys():
            record.exc_text = _printable_lines("".join(_outline(record.exc_info[1], set())).rstrip("\n"))
        return True


class TextFormatter(logging.Formatter):
    """`2026-11-21 06:31:02.345 INFO message key=value ...`; nothing in it can begin a line or steer a terminal."""

    default_msec_format = "%s.%03d"

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  (named by logging)
        fields = " ".join(f"{name}={_word(value)}" for name, value in _fields(record).items())
        line = super().formatMessage(record)
        return printable(f"{line} {fields}" if fields else line)

    def formatException(self, ei: Any) -> str:  # noqa: N802  (named by logging)
        return _printable_lines(super().formatException(ei))


class JsonFormatter(logging.Formatter):
    """One object a line: time (UTC), level, logger, process, message, the fields, and the traceback if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        content: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "process": record.process,
            "message": record.getMessage(),
            **{name: _json_value(value) for name, value in _fields(record).items()},
        }
        if record.exc_info:
            content["traceback"] = record.exc_text or self.formatException(record.exc_info)
        return json.dumps(content, default=str)


def configure_logging(log_format: str, *, shows_content: bool = False) -> None:
    """Send everything from INFO on to stderr; `log_format` is `text` or `json`. Warnings of Python, and the failures of
    threads, go there too."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    handler.addFilter(RequestFilter(shows_content=shows_content))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    logging.captureWarnings(True)
    threading.excepthook = _log_thread_failure


def _log_thread_failure(failure: threading.ExceptHookArgs) -> None:
    logger.error("a thread failed", exc_info=failure.exc_value)


def _fields(record: logging.LogRecord) -> Mapping[str, Any]:
    fields: Mapping[str, Any] = getattr(record, "fields", {})
    return fields


def _word(value: object) -> str:
    """In quotes unless it is one plain word."""
    text = str(value)
    return text if text.replace(".", "").replace("_", "").replace("-", "").isalnum() else json.dumps(text)


def _json_value(value: object) -> object:
    """JSON has no NaN and no infinities."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _printable_lines(text: str) -> str:
    return "\n".join(map(printable, text.split("\n")))


def _outline(error: BaseException | None, seen: set[int]) -> Iterator[str]:
    """A traceback that names the exceptions only, causes first."""
    if error is None or id(error) in seen:
        return
    seen.add(id(error))
    yield from _outline(error.__cause__ if error.__suppress_context__ else error.__context__, seen)
    for inner in error.exceptions if isinstance(error, BaseExceptionGroup) else ():
        yield from _outline(inner, seen)
    yield "Traceback (most recent call last):\n"
    yield from traceback.format_tb(error.__traceback__)
    yield f"{type(error).__module__}.{type(error).__qualname__}: (text left out; --log-prompts on shows it)\n"
