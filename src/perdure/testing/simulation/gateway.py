"""Gateway machines: the real task desk and event streams in processes that crash, reached over a line that breaks."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

import msgspec
import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message

from perdure.gateway.access import Caller, read_headers
from perdure.gateway.calls import Call
from perdure.gateway.events import task_events, thread_events
from perdure.gateway.hub import EventHub
from perdure.gateway.problems import problem_of
from perdure.gateway.services import Metrics, Services
from perdure.gateway.settings import GatewaySettings, Role
from perdure.gateway.tasks import PATH, TaskDesk
from perdure.lifecycle.ids import DEFAULT_TENANT
from perdure.testing.simulation.process import Process
from perdure.testing.simulation.referee import Promise
from perdure.testing.simulation.runner import registry
from perdure.testing.simulation.script import GRAPH
from perdure.testing.simulation.workers import TIER

if TYPE_CHECKING:
    from perdure.testing.simulation.world import World

_CALLER: Final = Caller(DEFAULT_TENANT, frozenset(Role))
_SETTINGS: Final = GatewaySettings(graph_tiers={GRAPH: TIER})
_metrics: Final = Metrics()


class Broken(Exception):
    """The line to the gateway broke: nobody knows what was done."""


class Answer(msgspec.Struct, frozen=True):
    status: int
    body: Any


class GatewayMachine:
    """Keeps one gateway process alive."""

    def __init__(self, world: World, number: int) -> None:
        self._world = world
        self._number = number
        self._random = random.Random(f"{world.seed} gateway {number}")
        self.gateway: GatewayProcess | None = None
        self.supervisor = world.process(f"gateways{number}")
        self.supervisor.start(self._keep(), "supervise")

    async def _keep(self) -> None:
        lived = 0
        while True:
            lived += 1
            self.gateway = GatewayProcess(self._world, f"g{self._number}.{lived}")
            await self.gateway.process.wait_ended()
            gone, self.gateway = self.gateway, None
            gone.cut()
            await asyncio.sleep(self._random.random())


class GatewayProcess:
    """One gateway."""

    def __init__(self, world: World, name: str) -> None:
        self._world = world
        self.process: Process = world.process(name)
        store = world.store(self.process)
        hub = EventHub(store, _SETTINGS.stream_buffer)
        self._services = Services(
            store, world.broker(self.process), registry, _no_saver, _SETTINGS, world.clock, hub, _metrics
        )
        self._desk = TaskDesk(self._services)
        self._open: set[asyncio.Future[Any]] = set()

    def cut(self) -> None:
        """It died: its connections break."""
        for line in self._open:
            if not line.done():
                line.set_exception(Broken("the gateway died"))
        self._open.clear()

    def expect(self, line: asyncio.Future[Any]) -> None:
        self._open.add(line)
        line.add_done_callback(self._open.discard)

    async def serve(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        """One request, routed to the code that serves it; errors become problems as in the gateway."""
        try:
            scope = _scope(method, path, headers)
            told = read_headers(scope)
            if (method, path) == ("POST", PATH):
                status, answer, _ = await self._desk.accept(scope, _once(body), told, _CALLER)
                return Answer(status, orjson.loads(answer))
            call = Call(self._services, Request(scope, _once(body)), _CALLER, told)
            verb = path.rsplit("/", 1)[-1]
            endpoints = {"cancel": self._desk.cancel, "resume": self._desk.resume, "requeue": self._desk.requeue}
            response = await endpoints.get(verb, self._desk.get)(call)
            return Answer(response.status_code, orjson.loads(bytes(response.body)))
        except Exception as error:  # noqa: BLE001 - as the gateway does: whatever it is becomes an answer
            problem, _ = problem_of(error)
            if problem.status == 500:
                self._world.referee.blame(Promise.NO_FAULT, f"{method} {path}: {error!r}")
            return Answer(problem.status, msgspec.to_builtins(problem))

    async def stream(
        self,
        path: str,
        headers: Mapping[str, str],
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> int:
        """A stream of events until it ends; the status of the answer."""
        try:
            scope = _scope("GET", path, headers)
            call = Call(self._services, Request(scope, receive), _CALLER, read_headers(scope))
            response: Response | ASGIApp = await (thread_events if "/threads/" in path else task_events)(call)
            if isinstance(response, Response):
                return response.status_code
            await response(scope, receive, send)
            return 200
        except Exception as error:  # noqa: BLE001 - as above
            problem, _ = problem_of(error)
            if problem.status == 500:
                self._world.referee.blame(Promise.NO_FAULT, f"stream {path}: {error!r}")
            return problem.status


def _scope(method: str, path: str, headers: Mapping[str, str]) -> dict[str, Any]:
    place, _, query = path.partition("?")
    parts = place.split("/")
    names = {"tasks": "task_id", "threads": "thread_id"}
    return {
        "type": "http",
        "method": method,
        "path": place,
        "query_string": query.encode(),
        "path_params": {names[parts[2]]: parts[3]} if len(parts) > 3 else {},
        "headers": [
            (b"content-type", b"application/json"),
            *((name.encode(), value.encode()) for name, value in headers.items()),
        ],
    }


def _once(body: bytes) -> Callable[[], Awaitable[Message]]:
    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    return receive


def _no_saver(tenant: object) -> Any:
    raise RuntimeError("no simulated call reads checkpoints through the gateway")
