"""What the deployment consists of: the graphs it serves and the workers that run them."""

from __future__ import annotations

import os
import signal
import socket

import msgspec
from starlette.responses import Response

from perdure.errors import Conflict, GraphError, NotFound
from perdure.gateway.calls import Call, Operation, answer
from perdure.gateway.settings import Role
from perdure.gateway.wire import GraphList, GraphView, Killed, WorkerList, WorkerView
from perdure.store.base import WorkerInfo


def operations() -> list[Operation]:
    return [
        Operation("GET", "/v1/graphs", graphs, "The graphs that are served", answer=GraphList),
        Operation("GET", "/v1/graphs/{name}", graph, "One graph: nodes, edges, tiers and tags", answer=GraphView),
        Operation("GET", "/v1/workers", workers, "The fleet", Role.OPERATE, answer=WorkerList),
        Operation(
            "POST",
            "/v1/workers/{worker_id}/kill",
            kill,
            "Send SIGKILL to a worker process of this machine; only where the deployment allows chaos",
            Role.CHAOS,
            answer=Killed,
        ),
    ]


async def graphs(call: Call) -> Response:
    return answer(GraphList(sorted(call.services.registry.names)))


async def graph(call: Call) -> Response:
    """A graph that does not load is shown with its author's traceback."""
    name = call.request.path_params["name"]
    if name not in call.services.registry.names:
        raise NotFound(f"there is no graph {name[:128]!r}")
    try:
        loaded = await call.services.registry.load(name)
    except GraphError as error:
        return answer(GraphView(name, error=str(error)))
    tier = call.services.settings.graph_tiers.get(name) or loaded.tier
    return answer(GraphView(name, tier, graph=dict(loaded.describe())))


async def workers(call: Call) -> Response:
    return answer(WorkerList([_view(worker) for worker in await call.services.store.workers()]))


async def kill(call: Call) -> Response:
    """SIGKILL, so that nothing can be tidied up: what a demonstration and a drill need."""
    await call.no_body()
    worker_id = call.id("worker_id")
    if not call.services.settings.chaos:
        raise NotFound("this deployment does not let workers be killed over HTTP")
    for worker in await call.services.store.workers():
        if worker.worker_id == worker_id:
            return answer(_kill(worker))
    raise NotFound(f"there is no worker {worker_id!r}")


def _kill(worker: WorkerInfo) -> Killed:
    if worker.host != socket.gethostname() or worker.pid in (0, 1, os.getpid()):
        raise Conflict("elsewhere", f"worker {worker.worker_id!r} is no process of its own on this machine")
    try:
        os.kill(worker.pid, signal.SIGKILL)
    except ProcessLookupError:
        raise NotFound(f"worker {worker.worker_id!r} is dead already") from None
    return Killed(worker.worker_id, worker.pid, list(worker.held))


def _view(worker: WorkerInfo) -> WorkerView:
    return WorkerView(**msgspec.structs.asdict(worker))
