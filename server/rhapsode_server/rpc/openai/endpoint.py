"""Around every HTTP request: routes, the reception, the caller's deadline, errors in OpenAI's form."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from aiohttp import web

from rhapsode_server.errors import DeadlinePassed, InvalidRequest, ServingError
from rhapsode_server.logs import answering
from rhapsode_server.rpc.access import Access
from rhapsode_server.rpc.call import Call, current_call
from rhapsode_server.rpc.errors import OK
from rhapsode_server.rpc.health import HealthService
from rhapsode_server.rpc.openai import errors
from rhapsode_server.rpc.openai.caller import HttpCaller
from rhapsode_server.rpc.openai.exchange import Exchange, refusal
from rhapsode_server.rpc.openai.parameters import asked
from rhapsode_server.rpc.openai.service import OpenAiService
from rhapsode_server.rpc.openai.values import read_object
from rhapsode_server.rpc.reception import Reception
from rhapsode_server.rpc.transcript import Transcript, prompt_of

METHODS = ("completions", "chat/completions", "models")
"""By which calls are counted and logged: their paths after /v1/."""

TIMEOUT_HEADER = "X-Request-Timeout"

_LONGEST_TIMEOUT = 86_400.0

Behaviour = Callable[[Exchange], Awaitable[None]]


class Endpoint:
    """`refuses_pages`: nobody is asked for a token, so that pages which somebody opens in a browser could call."""

    def __init__(
        self,
        service: OpenAiService,
        reception: Reception,
        access: Access,
        health: HealthService,
        *,
        refuses_pages: bool,
    ) -> None:
        self._service = service
        self._reception = reception
        self._access = access
        self._health = health
        self._refuses_pages = refuses_pages
        self._behaviours: Mapping[str, tuple[str, Behaviour]] = {
            "completions": ("POST", lambda exchange: self._generate(exchange, is_chat=False)),
            "chat/completions": ("POST", lambda exchange: self._generate(exchange, is_chat=True)),
            "models": ("GET", self._list),
        }

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """Of every request, as aiohttp wants it; whatever goes wrong is answered too."""
        caller = HttpCaller(request)
        try:
            if request.path == "/health":
                return self._answer_health(request, caller)
            name, behaviour = self._route(request)
        except ServingError as error:
            return refusal(error, self._allowed(request))
        with self._reception.open_calls.entered():
            response = await self._answer(name, behaviour, request, caller)
        if self._reception.open_calls.is_draining:
            response.force_close()
        return response

    def _route(self, request: web.BaseRequest) -> tuple[str, Behaviour]:
        """Raises InvalidRequest."""
        name = _name(request)
        if name not in self._behaviours:
            paths = ", ".join(f"/v1/{each}" for each in METHODS)
            raise InvalidRequest.of(errors.PATH, f"there is nothing here; calls go to {paths}")
        method, behaviour = self._behaviours[name]
        if request.method != method:
            raise InvalidRequest.of(errors.METHOD, f"must be {method}")
        if self._refuses_pages and errors.ORIGIN in request.headers:
            raise InvalidRequest.of(errors.ORIGIN, "pages may not call a server without tokens; see --tokens-file")
        return name, behaviour

    def _allowed(self, request: web.BaseRequest) -> Mapping[str, str]:
        """What an answer to a wrong method says."""
        name = _name(request)
        return {"Allow": self._behaviours[name][0]} if name in self._behaviours else {}

    async def _answer(
        self, name: str, behaviour: Behaviour, request: web.BaseRequest, caller: HttpCaller
    ) -> web.StreamResponse:
        path = f"/v1/{name}"
        call = self._reception.begin(name, path, caller, None)
        current_call.set(call)
        exchange = Exchange(request, call)
        with answering(call):
            try:
                with self._reception.admitted(call, path, caller):
                    await _in_time(behaviour, exchange)
            except asyncio.CancelledError:
                self._reception.report_left(call, caller)
                raise
            except Exception as error:
                self._reception.report_failure(call, error, caller)
                await _fail(exchange, error)
            else:
                self._reception.report(call, OK, caller)
        assert exchange.response is not None
        return exchange.response

    async def _generate(self, exchange: Exchange, *, is_chat: bool) -> None:
        wanted = asked(read_object(await exchange.body()), is_chat=is_chat)
        if self._reception.logs_prompts:
            exchange.call.transcript = Transcript(prompt_of(wanted.batch))
        if wanted.streams:
            await self._service.stream(wanted, exchange.call, exchange.send)
            await exchange.end_stream()
        else:
            exchange.answer(await self._service.complete(wanted, exchange.call))

    async def _list(self, exchange: Exchange) -> None:
        name = exchange.request.path.removeprefix("/v1/models").removeprefix("/")
        exchange.answer(self._service.model(name) if name else self._service.models())

    def _answer_health(self, request: web.BaseRequest, caller: HttpCaller) -> web.Response:
        """For whoever gRPC's health is for, and as little of it. Raises PermissionDenied."""
        self._access.check(request.path, caller)
        is_ready = not self._health.not_ready_because
        return web.json_response({"status": "ok" if is_ready else "not ready"}, status=200 if is_ready else 503)


def _name(request: web.BaseRequest) -> str:
    """Of the call that the path stands for, if it stands for one."""
    return "models" if request.path.startswith("/v1/models/") else request.path.removeprefix("/v1/")


async def _in_time(behaviour: Behaviour, exchange: Exchange) -> None:
    """Raises DeadlinePassed when the caller's time is over."""
    call = exchange.call
    call.deadline = _deadline(exchange.request, call)
    try:
        async with asyncio.timeout_at(call.deadline) as limit:
            await behaviour(exchange)
    except TimeoutError:
        if not limit.expired():
            raise
        raise DeadlinePassed("the deadline passed before the completion ended") from None


def _deadline(request: web.BaseRequest, call: Call) -> float | None:
    """In `time.monotonic()`, which is the event loop's too."""
    text = request.headers.get(TIMEOUT_HEADER)
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= _LONGEST_TIMEOUT:
        raise InvalidRequest.of(TIMEOUT_HEADER, f"must be seconds above 0, at most {_LONGEST_TIMEOUT:g}")
    return call.arrived_at + seconds


async def _fail(exchange: Exchange, error: Exception) -> None:
    if exchange.response is None:
        exchange.refuse(error)
    else:
        await exchange.break_off(error)
