"""The gateway as an ASGI application: access first, then the route, and every error as a problem document."""

from __future__ import annotations

import logging
from typing import Final

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from perdure.broker.base import Broker
from perdure.clock import Clock
from perdure.gateway import events, fleet, health, openapi, threads
from perdure.gateway.access import (
    Access,
    Caller,
    Headers,
    cross_origin_headers,
    preflight_headers,
    read_headers,
)
from perdure.gateway.calls import Call, Operation
from perdure.gateway.hub import EventHub
from perdure.gateway.problems import MEDIA_TYPE, WrongMethod, problem_of
from perdure.gateway.services import Graphs, Metrics, Savers, Services
from perdure.gateway.settings import ApiKey, GatewaySettings, Role, parse_api_keys
from perdure.gateway.tasks import PATH as TASKS
from perdure.gateway.tasks import TaskDesk
from perdure.store.base import TaskStore

__all__ = ["ApiKey", "Gateway", "GatewaySettings", "Role", "create_app", "parse_api_keys"]

# Probes and newcomers read these, and they tell nothing of anybody's: no key is needed.
_OPEN: Final = frozenset({"/livez", "/healthz", "/readyz", "/openapi.json", "/docs"})
_ENCODER: Final = msgspec.json.Encoder()
_LOG = logging.getLogger("perdure.gateway")


def create_app(
    store: TaskStore,
    broker: Broker,
    registry: Graphs,
    savers: Savers,
    settings: GatewaySettings,
    clock: Clock,
) -> Gateway:
    """A gateway over these ports. `savers` gives the saver through which a tenant's threads are read.

    The ports stay the caller's: closing the gateway closes its streams, not the store.
    """
    hub = EventHub(store, settings.stream_buffer)
    return Gateway(Services(store, broker, registry, savers, settings, clock, hub, Metrics()))


class Gateway:
    """An ASGI application. `drain` ends its streams and turns `/readyz` red; `aclose` also waits for its readers."""

    def __init__(self, services: Services) -> None:
        self.services = services
        self._access = Access(services.settings)
        self._desk = TaskDesk(services)
        self.operations: list[Operation] = [
            *self._desk.operations(),
            *events.operations(),
            *threads.operations(),
            *fleet.operations(),
            *health.operations(),
            Operation("GET", "/openapi.json", self._openapi, "This API as an OpenAPI 3.1 document", None),
            Operation("GET", "/docs", self._docs, "This API as a page", None, media_type="text/html"),
        ]
        self._document = openapi.document(self.operations)
        self._router = Router([self._route(path) for path in _paths(self.operations)], redirect_slashes=False)

    def drain(self) -> None:
        """End all streams now, so that their clients go on elsewhere. Safe to repeat."""
        self.services.hub.close()

    async def aclose(self) -> None:
        """`drain`, and return when nothing of the gateway runs any more."""
        await self.services.hub.aclose()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "http":
            await self._serve(scope, receive, _Started(send))
        else:
            await send({"type": "websocket.close", "code": 1003, "reason": "no WebSockets here"})

    async def _serve(self, scope: Scope, receive: Receive, send: _Started) -> None:
        headers = read_headers(scope)
        try:
            method, path = scope["method"], scope["path"]
            if method == "OPTIONS" and headers.origin is not None:
                self._access.admit(headers, open_to_all=True)
                await _answer(send, 204, b"", preflight_headers(headers.origin))
                return
            guest = self._access.guest(headers)
            if guest is not None:
                send.extra = cross_origin_headers(guest)
            caller = self._access.admit(headers, open_to_all=path in _OPEN)
            if path == TASKS and method == "POST":
                # The busiest call goes past the router, which costs as much as all the rest of it.
                caller.require(Role.SUBMIT)
                status, body, told = await self._desk.accept(scope, receive, headers, caller)
                await _answer(send, status, body, told)
                self.services.metrics.answers.add(str(status))
                return
            scope["app"] = self
            scope["perdure.caller"], scope["perdure.headers"] = caller, headers
            await self._router(scope, receive, send)
        except ClientDisconnect:
            return
        except Exception as error:
            if send.started:
                # The answer has begun and cannot become a problem any more: the server logs this and cuts the line.
                raise
            if isinstance(error, HTTPException) and error.status_code == 405:
                error = WrongMethod(scope["method"], (error.headers or {}).get("Allow", ""))
            problem, told = problem_of(error, self.services.settings.retry_after_s)
            told.append((b"content-type", MEDIA_TYPE))
            await _answer(send, problem.status, _ENCODER.encode(problem), told)
            self.services.metrics.answers.add(str(problem.status))

    def _route(self, path: str) -> Route:
        """One route a path, so that a wrong method is answered with all that the path has."""
        by_method = {operation.method: operation for operation in self.operations if operation.path == path}

        async def endpoint(request: Request) -> Response | ASGIApp:
            method = "GET" if request.method == "HEAD" else request.method
            operation = by_method[method]
            caller: Caller = request.scope["perdure.caller"]
            headers: Headers = request.scope["perdure.headers"]
            if operation.role is not None:
                caller.require(operation.role)
            response = await operation.endpoint(Call(self.services, request, caller, headers))
            if isinstance(response, Response):
                self.services.metrics.answers.add(str(response.status_code))
            return response

        return Route(path, endpoint, methods=list(by_method))

    async def _openapi(self, call: Call) -> Response:
        return Response(_ENCODER.encode(self._document), media_type="application/json")

    async def _docs(self, call: Call) -> Response:
        policy = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'"
        return HTMLResponse(openapi.page(self._document), headers={"Content-Security-Policy": policy})

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await send({"type": "lifespan.startup.complete"})
            elif message["type"] == "lifespan.shutdown":
                await self.aclose()
                await send({"type": "lifespan.shutdown.complete"})
                return


class _Started:
    """`send`, that remembers whether the answer has begun, and adds the headers a foreign page needs."""

    __slots__ = ("extra", "inner", "started")

    def __init__(self, inner: Send) -> None:
        self.inner = inner
        self.started = False
        self.extra: list[tuple[bytes, bytes]] = []

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            if self.extra:
                message["headers"] = [*message["headers"], *self.extra]
        await self.inner(message)


async def _answer(send: Send, status: int, body: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    if status != 204:
        headers.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _paths(operations: list[Operation]) -> list[str]:
    return list(dict.fromkeys(operation.path for operation in operations))
