"""The two formats of the log, and what a line may hold."""

import asyncio
import json
import logging
import math
import os
import sys
import threading
import warnings
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rhapsode_server.logs import (
    JsonFormatter,
    RequestFilter,
    TextFormatter,
    answering,
    current_request_id,
)
from support.logs import ServerLog

FORMATTERS = (TextFormatter(), JsonFormatter())
SECRET = "my diary"


@dataclass
class Request:
    request_id: str


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
        "process": os.getpid(),
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


@given(message=st.text(), name=st.text(), value=st.one_of(st.text(), st.floats(), st.binary(), st.none()))
def test_whatever_is_logged_is_one_line(message: str, name: str, value: object) -> None:
    made = record("%s", message, **{f"field-{name}": value})
    text, line = (formatter.format(made) for formatter in FORMATTERS)
    assert text.isprintable()
    assert len(line.splitlines()) == 1
    json.loads(line, parse_constant=lambda constant: pytest.fail(f"{constant} is no JSON"))


def test_json_has_no_infinities() -> None:
    content = json.loads(JsonFormatter().format(record("", a=math.nan, b=math.inf, c=0.5)))
    assert (content["a"], content["b"], content["c"]) == ("nan", "inf", 0.5)


logger = logging.getLogger("rhapsode.rpc")


async def test_lines_of_a_request_carry_its_id_wherever_they_come_from(server_log: ServerLog) -> None:
    gone_on, request = asyncio.Event(), Request("made")

    async def child() -> None:
        logger.info("task")
        await gone_on.wait()
        logger.info("after the request")

    logger.info("before")
    with answering(request):
        task = asyncio.create_task(child())
        await asyncio.sleep(0)
        request.request_id = "r-1"  # as soon as the message is read
        logger.info("request")
        await asyncio.to_thread(logger.info, "thread")
    logger.info("after")
    gone_on.set()
    await task
    lines = server_log.lines
    assert [line["message"] for line in lines if "request_id" in line] == ["task", "request", "thread"]
    assert [line["request_id"] for line in lines if "request_id" in line] == ["made", "r-1", "r-1"]
    assert current_request_id() == ""


async def test_requests_at_the_same_time_are_told_apart(server_log: ServerLog) -> None:
    async def answer(name: str) -> None:
        with answering(Request(name)):
            for _ in range(3):
                await asyncio.sleep(0)
                logger.info(name)

    await asyncio.gather(*(answer(f"r-{number}") for number in range(8)))
    lines = server_log.lines
    assert len(lines) == 24
    assert all(line["message"] == line["request_id"] for line in lines)


def fail_quoting() -> None:
    try:
        raise KeyError(SECRET)
    except KeyError as error:
        raise ExceptionGroup(SECRET, [RuntimeError(SECRET)]) from error


@pytest.mark.parametrize("server_log", [False, True], indirect=True, ids=["off", "on"])
@pytest.mark.parametrize("formatter", FORMATTERS, ids=["text", "json"])
def test_tracebacks_of_requests_do_not_quote_them(server_log: ServerLog, formatter: logging.Formatter) -> None:
    logging.getLogger().handlers[0].setFormatter(formatter)
    with answering(Request("r-1")):
        try:
            fail_quoting()
        except ExceptionGroup:
            logger.exception("unexpected failure")
    assert (SECRET in server_log.text) is server_log.shows_content
    for part in ("KeyError", "RuntimeError", "ExceptionGroup", "test_logs.py", "fail_quoting"):
        assert part in server_log.text


def test_other_tracebacks_stay_whole(server_log: ServerLog) -> None:
    try:
        fail_quoting()
    except ExceptionGroup:
        logger.exception("the look at poems failed")
    assert SECRET in server_log.text


def test_causes_that_go_in_circles_end() -> None:
    made = record("unexpected failure", request_id="r-1")
    error = RuntimeError(SECRET)
    with suppress(RuntimeError):
        raise error from error
    made.exc_info = (RuntimeError, error, error.__traceback__)
    RequestFilter(shows_content=False).filter(made)
    assert TextFormatter().format(made).count("RuntimeError") == 1


def test_a_file_with_a_forged_name_adds_no_line(server_log: ServerLog) -> None:
    name = "1\n2026-01-01 00:00:00.000 INFO request outcome=ok\r\x1b[1A"
    try:
        raise OSError(2, "No such file", name)
    except OSError as error:
        logger.exception("%s: passed over: %s", name, error)
    [line] = server_log.lines
    assert line["message"].startswith(name)


def test_warnings_and_failures_of_threads_are_lines_too(server_log: ServerLog) -> None:
    thread = threading.Thread(target=fail_quoting)
    thread.start()
    thread.join()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(False)  # catch_warnings has taken it over
        logging.captureWarnings(True)
        warnings.warn("old", DeprecationWarning, stacklevel=1)
    failed, warned = server_log.lines
    assert (failed["message"], failed["level"]) == ("a thread failed", "ERROR")
    assert "DeprecationWarning: old" in warned["message"]
    logging.captureWarnings(False)
