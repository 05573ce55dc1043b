"""The two formats of the log."""

import json
import logging
import sys
from datetime import datetime

from rhapsode_server.logs import JsonFormatter, TextFormatter


def record(message: str, *args: object, **fields: object) -> logging.LogRecord:
    made = logging.LogRecord("rhapsode.rpc", logging.INFO, "file.py", 1, message, args, None)
    made.fields = fields
    return made


def test_text_is_one_line_with_the_fields_at_its_end() -> None:
    line = TextFormatter().format(record("request %s", "ended", outcome="ok", total_ms=1.25, error="two words"))
    assert line.endswith(' INFO request ended outcome=ok total_ms=1.25 error="two words"')


def test_no_value_can_begin_a_line_or_a_field_of_its_own() -> None:
    forged = "r-1\n2026-01-01 INFO request outcome=ok"
    line = TextFormatter().format(record("health: %s", forged, request_id=forged))
    assert "\n" not in line
    assert line.count('request_id="r-1\\n2026') == 1


def test_nothing_steers_the_terminal() -> None:
    hostile = "a\r\x1b[2J\x7f\x9b\u202e\udcff\u2028b"
    made = record("file %s", hostile, file=hostile)
    try:
        raise RuntimeError(hostile)
    except RuntimeError:
        made.exc_info = sys.exc_info()
    first, *traceback = TextFormatter().format(made).split("\n")
    assert all(map(str.isprintable, [first, *traceback]))
    assert r"file a\r\x1b[2J\x7f\x9b\u202e\udcff\u2028b" in first
    assert traceback[-1] == r"RuntimeError: a\r\x1b[2J\x7f\x9b\u202e\udcff\u2028b"


def test_what_can_be_printed_stays() -> None:
    assert TextFormatter().format(record("G\u00f6the \u8a69 \\ 'x'")).endswith(" INFO G\u00f6the \u8a69 \\ 'x'")


def test_json_is_one_object_with_the_fields_in_it() -> None:
    content = json.loads(JsonFormatter().format(record("request\n", request_id="r-1", version=3)))
    assert datetime.fromisoformat(content.pop("time")).tzinfo is not None
    assert content == {
        "level": "INFO",
        "logger": "rhapsode.rpc",
        "message": "request\n",
        "request_id": "r-1",
        "version": 3,
    }


def test_tracebacks_are_kept() -> None:
    made = record("unexpected failure")
    try:
        raise RuntimeError("inside")
    except RuntimeError:
        made.exc_info = sys.exc_info()
    assert "RuntimeError: inside" in json.loads(JsonFormatter().format(made))["traceback"]
    assert TextFormatter().format(made).endswith("RuntimeError: inside")
