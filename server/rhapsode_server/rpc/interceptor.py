"""Around every gRPC call of our services: what the reception does, messages from bytes, errors to statuses."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NoReturn, TypeAlias, cast

import grpc
import grpc.aio
from google.protobuf.message import DecodeError, Message

from rhapsode_server.errors import InvalidRequest
from rhapsode_server.logs import answering
from rhapsode_server.rpc.call import Call, current_call
from rhapsode_server.rpc.errors import OK, message_of, trailing_metadata
from rhapsode_server.rpc.reception import Reception, adopt_request_id
from rhapsode_server.rpc.transcript import Transcript, prompt_of

Context = grpc.aio.ServicerContext[Any, Any]
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"  # generic in its stubs alone
Metadata: TypeAlias = tuple[tuple[str, str | bytes], ...]
Continuation: TypeAlias = "Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]]"

_OURS = "/rhapsode.v1."


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Wraps the handlers of our services. They are coroutines; a streaming one writes to its context."""

    def __init__(self, reception: Reception) -> None:
        self._reception = reception

    async def intercept_service(self, continuation: Continuation, details: grpc.HandlerCallDetails) -> "Handler | None":
        handler = await continuation(details)
        if handler is None or not details.method.startswith(_OURS):
            return handler
        return self._wrapped(handler, details.method)

    def _wrapped(self, handler: Any, path: str) -> "Handler":
        method = _Method(path, handler.request_deserializer, handler.unary_unary or handler.unary_stream)

        async def answer(raw: bytes, context: Context) -> Message | None:
            with self._reception.open_calls.entered():
                return await self._answer(method, raw, context)

        # Requests come as bytes: a message that cannot be read is the caller's error, not ours.
        make = grpc.unary_unary_rpc_method_handler if handler.unary_unary else grpc.unary_stream_rpc_method_handler
        return make(cast(Any, answer), None, handler.response_serializer)

    async def _answer(self, method: "_Method", raw: bytes, context: Context) -> Message | None:
        call = self._reception.begin(method.name, method.path, context, _deadline(context))
        current_call.set(call)
        with answering(call):
            try:
                response = await self._run(method, call, raw, context)
            except asyncio.CancelledError:
                self._reception.report_left(call, context)
                raise
            except Exception as error:
                if _is_lost(error):
                    await self._give_up(call, context)
                await self._fail(call, error, context)
            self._reception.report(call, OK, context)
            return response

    async def _run(self, method: "_Method", call: Call, raw: bytes, context: Context) -> Message | None:
        with self._reception.admitted(call, method.path, context):
            request = _parsed(method.parse, raw)
            adopt_request_id(call, getattr(request, "request_id", ""))
            if self._reception.logs_prompts:
                call.transcript = Transcript(prompt_of(request))
            response = await method.behaviour(request, context)
            if response is not None:
                await context.send_initial_metadata(call.metadata)
            return response

    async def _fail(self, call: Call, error: Exception, context: Context) -> NoReturn:
        outcome = self._reception.report_failure(call, error, context)
        message = message_of(error, call.request_id)
        await _abort(context, outcome.code, message, trailing_metadata(error, call))

    async def _give_up(self, call: Call, context: Context) -> NoReturn:
        """Nothing can be written to the caller any more, perhaps not even that."""
        self._reception.report_left(call, context)
        await _abort(context, grpc.StatusCode.CANCELLED, "the caller has gone")


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


async def _abort(context: Context, code: grpc.StatusCode, message: str, metadata: Metadata = ()) -> NoReturn:
    """Also where the caller has gone, or goes at this moment."""
    with suppress(grpc.aio.InternalError, grpc.aio.UsageError):
        await context.abort(code, message, metadata)
    raise asyncio.CancelledError


def _is_lost(error: Exception) -> bool:
    """Whether all that failed is a write: whoever was to read it has gone, and we had not heard of it yet."""
    if isinstance(error, ExceptionGroup):
        return all(map(_is_lost, error.exceptions))
    return isinstance(error, grpc.aio.InternalError)


def _deadline(context: Context) -> float | None:
    remaining: float | None = context.time_remaining()
    return None if remaining is None else time.monotonic() + remaining
