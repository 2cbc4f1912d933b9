"""What every route leans on: the ports, the graphs, the clock, the streams and the metrics."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, Protocol

import msgspec
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.pregel import Pregel

from perdure.broker.base import Broker
from perdure.clock import Clock
from perdure.gateway.hub import EventHub
from perdure.gateway.settings import GatewaySettings
from perdure.lifecycle.ids import Tenant
from perdure.store.base import TaskStore
from perdure.telemetry.metrics import MetricRegistry

AnyGraph = Pregel[Any, Any, Any, Any]
Savers = Callable[[Tenant], BaseCheckpointSaver[Any]]
"""The saver through which a tenant's threads are read. Tenants may use the same thread id, so each has its own."""


class ServedGraph(Protocol):
    """What the gateway needs to know of a loaded graph."""

    @property
    def name(self) -> str: ...
    @property
    def graph(self) -> AnyGraph: ...
    @property
    def tier(self) -> str | None: ...
    def bind(self, saver: BaseCheckpointSaver[Any]) -> BaseCheckpointSaver[Any]: ...
    def describe(self) -> Mapping[str, Any]: ...


class Graphs(Protocol):
    """What the gateway needs of the graph registry."""

    @property
    def names(self) -> Collection[str]: ...
    async def load(self, name: str) -> ServedGraph: ...


class Metrics:
    """What the gateway counts."""

    def __init__(self) -> None:
        self.registry = MetricRegistry()
        counter, gauge = self.registry.counter, self.registry.gauge
        self.accepted = counter("perdure_tasks_accepted_total", "Tasks accepted, by graph.", ["graph"])
        self.degraded = counter("perdure_doorbells_lost_total", "Tasks accepted while the broker was away.")
        self.answers = counter("perdure_http_answers_total", "Answers by status.", ["status"])
        self.duration = self.registry.histogram("perdure_accept_seconds", "From a whole request to its 202.")
        self.streams = gauge("perdure_streams_open", "Event streams that are open.")
        self.sent = counter("perdure_stream_bytes_total", "Bytes written to event streams.")
        self.stalled = counter("perdure_streams_stalled_total", "Streams closed because their reader stood still.")
        self.replays = counter("perdure_stream_overflows_total", "Buffers dropped because a reader was slow.")
        self.live = gauge("perdure_tasks_live", "Live tasks, roughly.", ["tier", "status"])
        self.workers = gauge("perdure_workers", "Workers that live, by tier.", ["tier"])


class Services(msgspec.Struct, frozen=True):
    """Handed to every route."""

    store: TaskStore
    broker: Broker
    registry: Graphs
    savers: Savers
    settings: GatewaySettings
    clock: Clock
    hub: EventHub
    metrics: Metrics
