"""A real gateway on a free loopback port, over the memory store and broker, with a hand that plays the worker."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

import httpx
import pytest
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from typing_extensions import TypedDict

from perdure.broker.memory import MemoryBroker
from perdure.clock import SystemClock
from perdure.errors import GraphError
from perdure.gateway.app import Gateway, GatewaySettings, create_app
from perdure.gateway.server import listen, serving
from perdure.gateway.services import AnyGraph
from perdure.lifecycle.doorbell import TaskRef
from perdure.lifecycle.events import NewEvent, encode_body
from perdure.lifecycle.ids import DEFAULT_TENANT, TaskId, Tenant, ThreadId, WorkerId
from perdure.lifecycle.lease import Lease
from perdure.store.base import TaskStore
from perdure.store.memory import MemoryStore

JSON = {"Content-Type": "application/json"}


class State(TypedDict):
    n: int


def counting_graph() -> AnyGraph:
    """Two nodes that count."""
    builder = StateGraph(State)
    builder.add_node("one", lambda state: {"n": state["n"] + 1})
    builder.add_node("two", lambda state: {"n": state["n"] + 10})
    builder.add_edge(START, "one")
    builder.add_edge("one", "two")
    builder.add_edge("two", END)
    return builder.compile()


class Served:
    """A loaded graph."""

    def __init__(self, name: str, graph: AnyGraph, tier: str | None) -> None:
        self.name, self.graph, self.tier = name, graph, tier

    def bind(self, saver: BaseCheckpointSaver[Any]) -> BaseCheckpointSaver[Any]:
        return saver

    def describe(self) -> Mapping[str, Any]:
        return {"nodes": sorted(self.graph.nodes)}


class Registry:
    """`echo` names no tier, `train` names gpu, `broken` does not import."""

    names = ("echo", "train", "broken")

    async def load(self, name: str) -> Served:
        if name == "broken":
            raise GraphError("graph 'broken' does not import: ZeroDivisionError in agent.py line 3")
        return Served(name, counting_graph(), "gpu" if name == "train" else None)


class House:
    """A running gateway and what is behind it."""

    def __init__(
        self, gateway: Gateway, store: TaskStore, broker: MemoryBroker, saver: InMemorySaver, url: str
    ) -> None:
        self.gateway, self.store, self.broker, self.saver, self.url = gateway, store, broker, saver, url
        self.http = httpx.AsyncClient(base_url=url, timeout=20, trust_env=False)

    async def submit(self, **fields: Any) -> dict[str, Any]:
        answer = await self.http.post("/v1/tasks", json={"graph": "echo", "input": {"n": 1}, **fields})
        assert answer.status_code == 202, answer.text
        accepted: dict[str, Any] = answer.json()
        return accepted

    async def claim(self, accepted: Mapping[str, Any], tenant: Tenant = DEFAULT_TENANT) -> Lease:
        ref = TaskRef(tenant, ThreadId(accepted["thread_id"]), TaskId(accepted["task_id"]))
        claim = await self.store.claim(ref, WorkerId("w-test"), 60_000)
        assert claim is not None
        return claim.lease

    async def say(self, lease: Lease, *texts: str, tag: str = "ANSWER", namespace: tuple[str, ...] = ()) -> int:
        """Append one custom event a text."""
        events = [
            NewEvent(
                "custom",
                tag,
                "|".join(namespace),
                encode_body(
                    method="custom",
                    tag=tag,
                    namespace=namespace,
                    timestamp_ms=0,
                    task_id=lease.task_id,
                    step=1,
                    attempt=1,
                    worker="w-test",
                    data={"text": text},
                    node="one",
                ),
            )
            for text in texts
        ]
        return await self.store.append(lease, events)


Open = Callable[..., AbstractAsyncContextManager[House]]


@contextlib.asynccontextmanager
async def open_house(
    *, store: TaskStore | None = None, broker: MemoryBroker | None = None, **settings: Any
) -> AsyncIterator[House]:
    clock, saver = SystemClock(), InMemorySaver()
    store, broker = store or MemoryStore(clock), broker or MemoryBroker()
    savers: dict[Tenant, BaseCheckpointSaver[Any]] = {DEFAULT_TENANT: saver}
    gateway = create_app(
        store,
        broker,
        Registry(),
        lambda tenant: savers.setdefault(tenant, InMemorySaver()),
        GatewaySettings(**settings),
        clock,
    )
    listener: socket.socket = listen("127.0.0.1", 0, open_to_all=False)
    async with serving(gateway, listener, gateway.drain) as url:
        house = House(gateway, store, broker, saver, url)
        try:
            yield house
        finally:
            await house.http.aclose()


@pytest.fixture
def opened() -> Open:
    return open_house


@pytest.fixture
async def house() -> AsyncIterator[House]:
    async with open_house() as house:
        yield house
