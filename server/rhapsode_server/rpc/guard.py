"""The first to see a call: who may not call costs little, and learns nothing from health and reflection either."""

import inspect
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias, cast

import grpc
import grpc.aio

from rhapsode_server.errors import ServingError
from rhapsode_server.rpc.access import Access
from rhapsode_server.rpc.errors import outcome_of

Context = grpc.aio.ServicerContext[Any, Any]
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"  # generic in its stubs alone
Continuation: TypeAlias = "Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]]"

_OURS = "/rhapsode.v1."
# No message is spelled so: whoever is let in after all, by tokens that have just changed, is told to send it again.
_UNREAD = b"\xff"
_BEHAVIOURS = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")


class Guard(grpc.aio.ServerInterceptor):
    """Refuses calls of other services than ours by itself. Ours are refused by the CallInterceptor, which counts them;
    of callers that it is going to refuse, not even the message is read."""

    def __init__(self, access: Access) -> None:
        self._access = access

    async def intercept_service(self, continuation: Continuation, details: grpc.HandlerCallDetails) -> "Handler | None":
        handler = await continuation(details)
        if handler is None:
            return None
        if not details.method.startswith(_OURS):
            return self._guarded(handler, details.method)
        return handler if self._access.knows(details.invocation_metadata or ()) else _without_message(handler)

    def _guarded(self, handler: Any, path: str) -> "Handler":
        kind, behaviour = next((kind, each) for kind in _BEHAVIOURS if (each := getattr(handler, kind)))

        async def answer(request: Any, context: Context) -> Any:
            try:
                self._access.check(path, context)
            except ServingError as error:
                await context.abort(outcome_of(error).code, str(error))
            answers = behaviour(request, context)
            if inspect.isawaitable(answers):
                return await answers
            async for message in answers:
                await context.write(message)
            return None

        return cast("Handler", handler._replace(**{kind: answer}))


def _without_message(handler: Any) -> "Handler":
    behaviour = handler.unary_unary or handler.unary_stream

    async def answer(_: object, context: Context) -> Any:
        return await behaviour(_UNREAD, context)

    # gRPC reads what is streamed only when it is asked for.
    return grpc.stream_unary_rpc_method_handler(cast(Any, answer))
