"""Around every call of our services: request id, admission, errors to statuses, metrics and one line in the log."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NoReturn, TypeAlias, cast

import grpc
import grpc.aio
from google.protobuf.message import DecodeError, Message

from rhapsode_server.errors import InvalidRequest
from rhapsode_server.metrics import Metrics
from rhapsode_server.rpc.call import (
    REQUEST_ID_KEY,
    TRAFFIC_KEY_KEY,
    Call,
    count_completion,
    current_call,
    is_request_id,
)
from rhapsode_server.rpc.errors import BUG, message_of, outcome_of, trailing_metadata
from rhapsode_server.rpc.open_calls import OpenCalls

logger = logging.getLogger("rhapsode.rpc")

Context = grpc.aio.ServicerContext[Any, Any]
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"  # generic in its stubs alone
Continuation: TypeAlias = "Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]]"

_OURS = "/rhapsode.v1."
_GENERATES = frozenset({"Generate", "GenerateStream"})
_REFUSED_WHILE_DRAINING = "/rhapsode.v1.GenerationService/"

# The caller's own clock ends a call too, often a moment before ours.
_DEADLINE_SLACK = 0.05


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Wraps the handlers of our services. They are coroutines; a streaming one writes to its context."""

    def __init__(self, metrics: Metrics, open_calls: OpenCalls) -> None:
        self._metrics = metrics
        self._open_calls = open_calls

    async def intercept_service(self, continuation: Continuation, details: grpc.HandlerCallDetails) -> "Handler | None":
        handler = await continuation(details)
        if handler is None or not details.method.startswith(_OURS):
            return handler
        return self._wrapped(handler, details.method)

    def _wrapped(self, handler: Any, path: str) -> "Handler":
        method = _Method(path, handler.request_deserializer, handler.unary_unary or handler.unary_stream)

        async def answer(raw: bytes, context: Context) -> Message | None:
            with self._open_calls.entered():
                return await self._answer(method, raw, context)

        # Requests come as bytes: a message that cannot be read is the caller's error, not ours.
        make = grpc.unary_unary_rpc_method_handler if handler.unary_unary else grpc.unary_stream_rpc_method_handler
        return make(cast(Any, answer), None, handler.response_serializer)

    async def _answer(self, method: "_Method", raw: bytes, context: Context) -> Message | None:
        call = Call(method=method.name)
        call.deadline = _deadline(context)
        current_call.set(call)
        try:
            response = await self._run(method, call, raw, context)
        except asyncio.CancelledError:
            self._report_end(call, context)
            raise
        except Exception as error:
            if _is_lost(error):
                await self._give_up(call, context)
            await self._fail(call, error, context)
        self._report(call, "ok")
        return response

    async def _run(self, method: "_Method", call: Call, raw: bytes, context: Context) -> Message | None:
        _adopt_request_id(call, _metadata(context, REQUEST_ID_KEY))
        call.traffic_key = _metadata(context, TRAFFIC_KEY_KEY)
        if method.path.startswith(_REFUSED_WHILE_DRAINING):
            self._open_calls.check_admission()
        request = _parsed(method.parse, raw)
        _adopt_request_id(call, getattr(request, "request_id", ""))
        response = await method.behaviour(request, context)
        if response is not None:
            await context.send_initial_metadata(call.metadata)
        return response

    async def _fail(self, call: Call, error: Exception, context: Context) -> NoReturn:
        outcome, message = outcome_of(error), message_of(error, call.request_id)
        if outcome is BUG:
            logger.error("unexpected failure", exc_info=error, extra={"fields": {"request_id": call.request_id}})
        self._report(call, outcome.label, error=message)
        await context.abort(outcome.code, message, trailing_metadata(error, call.request_id))

    async def _give_up(self, call: Call, context: Context) -> NoReturn:
        """Nothing can be written to the caller any more, perhaps not even that."""
        self._report_end(call, context)
        with suppress(grpc.aio.InternalError, grpc.aio.UsageError):
            await context.abort(grpc.StatusCode.CANCELLED, "the caller has gone")
        raise asyncio.CancelledError

    def _report_end(self, call: Call, context: Context) -> None:
        """The caller ended it."""
        self._report(call, "deadline" if _is_expired(context) else "cancelled")

    def _report(self, call: Call, outcome: str, **more: str) -> None:
        self._metrics.count_call(call.method, outcome)
        if call.method in _GENERATES:
            count_completion(self._metrics, call, outcome)
        elif call.method == "Score" and call.served is not None:
            call.served.note_end(outcome)
        # `rhapsode admin status --watch` asks every second.
        level = logging.DEBUG if (call.method, outcome) == ("GetStatus", "ok") else logging.INFO
        logger.log(level, "request", extra={"fields": {**_log_fields(call, outcome), **more}})


@dataclass(frozen=True, slots=True)
class _Method:
    """A method of our services: its path on the wire, how its requests are read, what answers them."""

    path: str
    parse: Callable[[bytes], Message]
    behaviour: Callable[[Message, Context], Awaitable[Message | None]]

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]


def _parsed(deserialize: Callable[[bytes], Message], raw: bytes) -> Message:
    try:
        return deserialize(raw)
    except DecodeError as error:
        raise InvalidRequest.of("request", f"the message cannot be read: {error}") from None


def _metadata(context: Context, wanted: str) -> str:
    return next((str(value) for key, value in context.invocation_metadata() or () if key == wanted), "")


def _adopt_request_id(call: Call, request_id: str) -> None:
    if is_request_id(request_id):
        call.request_id = request_id


def _is_lost(error: Exception) -> bool:
    """Whether all that failed is a write: whoever was to read it has gone, and we had not heard of it yet."""
    if isinstance(error, ExceptionGroup):
        return all(map(_is_lost, error.exceptions))
    return isinstance(error, grpc.aio.InternalError)


def _deadline(context: Context) -> float | None:
    remaining: float | None = context.time_remaining()
    return None if remaining is None else time.monotonic() + remaining


def _is_expired(context: Context) -> bool:
    remaining: float | None = context.time_remaining()
    return remaining is not None and remaining <= _DEADLINE_SLACK


def _log_fields(call: Call, outcome: str) -> dict[str, Any]:
    fields = {
        "request_id": call.request_id,
        "method": call.method,
        "outcome": outcome,
        "model": call.model,
        "version": call.version,
        "finish_reason": call.finish_reason,
        "prompt_tokens": call.num_prompt_tokens,
        "generated_tokens": call.num_generated_tokens,
        "queue_ms": _milliseconds(call.queue),
        "first_token_ms": _milliseconds(call.first_token),
        "total_ms": _milliseconds(call.total),
        **call.details,
    }
    return {name: value for name, value in fields.items() if value not in (None, "", 0)}


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 2)
