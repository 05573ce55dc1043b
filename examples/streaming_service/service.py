"""A web service that writes poems and sends them to its own callers word by word, as server-sent events.

RHAPSODE_ADDRESS=127.0.0.1:50051 uvicorn service:app
curl -N -d '{"theme": "The sea", "seed": 7}' http://127.0.0.1:8000/poems
"""

import json
import math
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from rhapsode_client import (
    AsyncClient,
    AsyncStream,
    DeadlineExceeded,
    Delta,
    InvalidRequest,
    Overloaded,
    Retryable,
    RhapsodeError,
    Unavailable,
)
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

STATUSES: Mapping[type[RhapsodeError], int] = {
    InvalidRequest: 400,
    Overloaded: 503,
    Unavailable: 503,
    DeadlineExceeded: 504,
}
SECONDS = 30.0


async def poem(request: Request) -> Response:
    """POST {"theme": ..., "seed": ...?}."""
    try:
        theme, seed = wanted(await request.json())
    except ValueError as error:
        return JSONResponse({"error": str(error)}, status_code=400)
    stream = request.state.client.stream(theme, seed=seed, stop="\n\n", timeout=SECONDS)
    try:
        # What fails before the first word can still be told by the status of the response.
        first = await anext(stream, None)
    except RhapsodeError as error:
        return refusal(error)
    started = stream.started
    headers = {"x-version": f"{started.model}@{started.version}", "x-seed": str(started.seed)}
    return StreamingResponse(events(stream, first), headers=headers, media_type="text/event-stream")


def wanted(order: object) -> tuple[str, int | None]:
    """The theme and the seed of an order. Raises ValueError."""
    match order:
        case {"theme": str(theme), **others} if isinstance(seed := others.get("seed"), int | None):
            return theme, seed
    raise ValueError("send a JSON object with a text `theme`, and perhaps a number `seed`")


async def events(stream: AsyncStream, first: Delta | None) -> AsyncIterator[str]:
    """`text` for each delta, then `done`, or `error`. When the caller goes away, the block ends the stream too."""
    async with stream:
        try:
            if first:
                yield event("text", {"text": first.text})
            async for delta in stream:
                yield event("text", {"text": delta.text})
            end = await stream.result()
            yield event("done", {"finish_reason": end.finish_reason, "tokens": end.usage.completion_tokens})
        except RhapsodeError as error:
            yield event("error", {"error": str(error)})


def event(name: str, data: Mapping[str, object]) -> str:
    """One server-sent event."""
    return f"event: {name}\ndata: {json.dumps(data)}\n\n"


def refusal(error: RhapsodeError) -> Response:
    """The HTTP status for an error, and when to come back."""
    headers = {}
    if isinstance(error, Retryable):
        headers["retry-after"] = str(math.ceil(error.retry_after or 1))
    return JSONResponse({"error": str(error)}, status_code=STATUSES.get(type(error), 502), headers=headers)


async def health(request: Request) -> Response:
    """200 while the model serves, for the load balancer in front of this service."""
    try:
        serving = await request.state.client.health(timeout=2) == "SERVING"
    except RhapsodeError:
        serving = False
    return Response(status_code=200 if serving else 503)


@asynccontextmanager
async def connected(_: Starlette) -> AsyncIterator[dict[str, AsyncClient]]:
    """One client for all requests; its address comes from RHAPSODE_ADDRESS."""
    async with AsyncClient() as client:
        yield {"client": client}


app = Starlette(
    routes=[Route("/poems", poem, methods=["POST"]), Route("/health", health, methods=["GET"])], lifespan=connected
)
