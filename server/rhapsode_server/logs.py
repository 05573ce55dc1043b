"""The log: one line an event on stderr, as text or as JSON. `extra={"fields": {...}}` adds fields to a line."""

import json
import logging
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from rhapsode_server.printable import printable


class TextFormatter(logging.Formatter):
    """`2026-11-21 06:31:02.345 INFO message key=value ...`; nothing in it can begin a line or steer a terminal."""

    default_msec_format = "%s.%03d"

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  (named by logging)
        fields = " ".join(f"{name}={_value(value)}" for name, value in _fields(record).items())
        line = super().formatMessage(record)
        return printable(f"{line} {fields}" if fields else line)

    def formatException(self, ei: Any) -> str:  # noqa: N802  (named by logging)
        return "\n".join(map(printable, super().formatException(ei).split("\n")))


class JsonFormatter(logging.Formatter):
    """One object a line: time (UTC), level, logger, message, the fields, and the traceback if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        content: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            content["traceback"] = self.formatException(record.exc_info)
        return json.dumps(content, default=str)


def configure_logging(log_format: str) -> None:
    """Send everything from INFO on to stderr; `log_format` is `text` or `json`."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)


def _fields(record: logging.LogRecord) -> Mapping[str, Any]:
    fields: Mapping[str, Any] = getattr(record, "fields", {})
    return fields


def _value(value: object) -> str:
    text = str(value)
    return (
        text
        if text.isalnum() or text.replace(".", "").replace("_", "").replace("-", "").isalnum()
        else json.dumps(text)
    )
