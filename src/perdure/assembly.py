"""Puts the rooms together: the one place that names concrete backends.

`run_dev`, `run_gateway` and `run_worker` run until their `stop` event is set and leave nothing behind; `worker_child`
is what a supervisor starts.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final, cast

import msgspec
import uvloop
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.store.base import IndexConfig

from perdure.broker.base import Broker
from perdure.broker.valkey import ValkeyBroker
from perdure.checkpoint import ValkeySaver
from perdure.checkpoint.long_term import ValkeyStore as ValkeyLongTerm
from perdure.clock import Clock, SystemClock
from perdure.errors import ConfigurationError, GraphError, InvalidRequest, StoreUnsuitable
from perdure.gateway.settings import GatewaySettings, parse_api_keys
from perdure.graph.registry import GraphRegistry
from perdure.graph.runner import GraphRunner
from perdure.lifecycle.ids import Tenant, WorkerId, check_id
from perdure.lifecycle.lease import Lease
from perdure.lifecycle.task import Priority
from perdure.recovery.rescuer import Rescuer
from perdure.settings import Settings
from perdure.store.base import TaskStore, WorkerInfo
from perdure.store.valkey import ValkeyStore
from perdure.telemetry.logs import configure_logs
from perdure.valkey.connection import Client
from perdure.valkey.embedded import EmbeddedValkey
from perdure.worker.executor import Executor
from perdure.worker.lease_keeper import LeaseKeeper
from perdure.worker.service import WorkerService
from perdure.worker.supervisor import EXIT_BROKEN_GRAPH, ReportWriter, Supervisor

log = logging.getLogger(__name__)

OnReady = Callable[[str], None]
CHECKPOINT_PATIENCE_S: Final = 300.0
"""How long a step waits for a store that is away. The lease keeper stops the task earlier if its lease runs out."""
THREADS_PER_SLOT: Final = 8
RESTART_S: Final = 1.0


class Connected(msgspec.Struct, frozen=True):
    """The backends that the settings name."""

    client: Client
    store: TaskStore
    broker: Broker


@contextlib.asynccontextmanager
async def connect(settings: Settings, clock: Clock) -> AsyncIterator[Connected]:
    """Open store and broker. Raises ConfigurationError, StoreUnavailable or StoreUnsuitable."""
    if settings.store is None:
        raise ConfigurationError(
            "no store is set: point PERDURE_STORE (or --store) at a Valkey or Redis, for instance "
            "valkey://127.0.0.1:6379; `perdure dev` brings its own"
        )
    if settings.broker is not None and not settings.broker.startswith(("valkey", "redis", "unix")):
        raise ConfigurationError(
            f"broker: {settings.broker.partition(':')[0]!r} is not supported; use valkey://HOST:PORT or leave it out"
        )
    async with contextlib.AsyncExitStack() as stack:
        client = await stack.enter_async_context(Client(settings.store))
        store = await ValkeyStore.open(client, clock)
        stack.push_async_callback(store.aclose)
        broker_client = client
        if settings.broker is not None:
            broker_client = await stack.enter_async_context(Client(settings.broker))
        broker = ValkeyBroker(broker_client, beside_store=broker_client is client)
        stack.push_async_callback(broker.aclose)
        yield Connected(client, store, broker)


async def require_suitable(store: TaskStore, *, unsafe: bool) -> None:
    """Raise StoreUnsuitable if the start-up check says that accepted tasks could be lost."""
    fatal = [finding for finding in await store.check() if finding.fatal]
    if fatal and not unsafe:
        lines = "\n".join(f"  {finding.name}: {finding.detail}\n    mend: {finding.mend}" for finding in fatal)
        raise StoreUnsuitable(f"the store cannot keep what Perdure promises:\n{lines}\n(--unsafe-store starts anyway)")


async def run_dev(settings: Settings, on_ready: OnReady, stop: asyncio.Event) -> None:
    """Everything on this machine: embedded Valkey (unless `store` is set), gateway, workers, rescuer."""
    from perdure.gateway.server import listen

    listener = listen(settings.host, settings.port, open_to_all=bool(settings.api_keys) or settings.insecure)
    try:
        async with contextlib.AsyncExitStack() as stack:
            if settings.store is None:
                valkey = await stack.enter_async_context(EmbeddedValkey(Path(settings.data_dir) / "valkey"))
                settings = msgspec.structs.replace(settings, store=valkey.url)
                alive = asyncio.create_task(valkey.keep_alive())
                stack.callback(alive.cancel)
            address: asyncio.Future[str] = asyncio.get_running_loop().create_future()
            workers_ready = asyncio.Event()

            async def tell_ready() -> None:
                await workers_ready.wait()
                on_ready(await address)

            async with asyncio.TaskGroup() as group:
                telling = group.create_task(tell_ready())
                running = [
                    group.create_task(run_worker(settings, workers_ready.set, stop, every_tier=True)),
                    group.create_task(_serve(settings, listener, address.set_result, stop)),
                ]
                await asyncio.wait(running)
                telling.cancel()
    finally:
        listener.close()


async def run_gateway(settings: Settings, on_ready: OnReady, stop: asyncio.Event) -> None:
    """The HTTP side alone."""
    from perdure.gateway.server import listen

    listener = listen(settings.host, settings.port, open_to_all=bool(settings.api_keys) or settings.insecure)
    try:
        await _serve(settings, listener, on_ready, stop)
    finally:
        listener.close()


async def _serve(settings: Settings, listener: socket.socket, on_ready: OnReady, stop: asyncio.Event) -> None:
    # A worker process never serves HTTP, and starts the sooner for not importing it.
    from perdure.gateway.app import create_app
    from perdure.gateway.server import serve

    clock = SystemClock()
    async with connect(settings, clock) as ports:
        await require_suitable(ports.store, unsafe=settings.unsafe_store)
        registry = GraphRegistry.from_file(Path(settings.config))

        def savers(tenant: Tenant) -> BaseCheckpointSaver[str]:
            return ValkeySaver(ports.client, tenant=tenant, clock=clock)

        await _preload(registry)
        app = create_app(
            store=ports.store,
            broker=ports.broker,
            registry=registry,
            savers=savers,
            settings=_gateway_settings(settings),
            clock=clock,
        )
        await serve(app, listener, on_ready, stop)


async def _preload(registry: GraphRegistry) -> None:
    """Import the graphs before the first request needs their tier or their drawing. A broken one is only told: the
    tasks of the others go on, and a worker may be able to load it."""
    for name in registry.names:
        try:
            await registry.load(name)
        except GraphError as error:
            log.warning("graph %s cannot be loaded here: %s", name, error)


def _graph_tiers(settings: Settings) -> dict[str, str]:
    """The tiers of graphs that the settings name. Raises ConfigurationError for what cannot be a tier's name."""
    try:
        check_id(settings.tier, "tier")
        return {
            name: check_id(graph["tier"], f"graphs.{name}.tier")
            for name, graph in settings.graphs.items()
            if "tier" in graph
        }
    except InvalidRequest as error:
        raise ConfigurationError(f"settings: {error}") from error


def _gateway_settings(settings: Settings) -> GatewaySettings:
    return GatewaySettings(
        keys=parse_api_keys(settings.api_keys) if settings.api_keys else (),
        insecure=settings.insecure,
        hosts=tuple(settings.hosts),
        origins=tuple(settings.origins),
        chaos=settings.chaos,
        graph_tiers=_graph_tiers(settings),
    )


async def run_worker(
    settings: Settings, on_ready: Callable[[], None], stop: asyncio.Event, *, every_tier: bool = False
) -> None:
    """A supervisor with its worker processes, and a rescuer beside it.

    With `every_tier` they serve, besides `settings.tier`, all tiers that the graphs name, each with slots of its own.
    """
    clock = SystemClock()

    def settings_of(index: int) -> Callable[[WorkerId], bytes]:
        standby = index >= settings.working
        return lambda worker_id: msgspec.json.encode(ChildSettings(settings, worker_id, standby, every_tier))

    async with connect(settings, clock) as ports:
        await require_suitable(ports.store, unsafe=settings.unsafe_store)
        _graph_tiers(settings)
        GraphRegistry.from_file(Path(settings.config))  # A faulty file is told here, once, and not by every child.
        supervisor = Supervisor(
            [sys.executable, "-m", "perdure.assembly"],
            [settings_of(index) for index in range(settings.workers)],
            ports.store,
            ports.broker,
            clock,
            settings.drain_timeout_s,
        )
        helpers = [asyncio.create_task(_tell_ready(supervisor, on_ready))]
        if settings.health_port is not None:
            helpers.append(asyncio.create_task(_serve_health(settings, settings.health_port, supervisor, stop)))
        if settings.rescuer:
            helpers.append(asyncio.create_task(_for_ever("rescuer", Rescuer(ports.store, ports.broker).run)))
        try:
            await supervisor.run(stop)
        finally:
            for helper in helpers:
                helper.cancel()
            await asyncio.wait(helpers)


async def _serve_health(settings: Settings, port: int, supervisor: Supervisor, stop: asyncio.Event) -> None:
    from perdure.gateway.server import listen, serving
    from perdure.worker.health import health_app

    # Probes come from outside the machine, and learn nothing but counts; so any address will do, without keys.
    with contextlib.closing(listen(settings.host, port, open_to_all=True)) as listener:
        async with serving(health_app(supervisor, stop, settings.tier), listener) as url:
            log.info("health at %s", url)
            await asyncio.Event().wait()


async def _for_ever(name: str, run: Callable[[], Awaitable[None]]) -> None:
    """A fault of ours in the background must be told, and must not end what all tasks lean on."""
    while True:
        try:
            await run()
        except Exception:
            log.exception("the %s failed and is started again", name)
        await asyncio.sleep(RESTART_S)


async def _tell_ready(supervisor: Supervisor, on_ready: Callable[[], None]) -> None:
    await supervisor.wait_ready()
    on_ready()


class ChildSettings(msgspec.Struct, frozen=True):
    """What a supervisor tells a worker process over its standard input."""

    settings: Settings
    worker_id: WorkerId
    standby: bool
    every_tier: bool


async def run_worker_child(child: ChildSettings, report: ReportWriter, alone: asyncio.Event) -> None:
    """One worker process: import the graphs, say that we are ready, work until SIGTERM or until it is `alone`."""
    settings, clock, loop = child.settings, SystemClock(), asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(settings.slots * THREADS_PER_SLOT, thread_name_prefix="node"))
    registry = GraphRegistry.from_file(Path(settings.config))
    loaded = await registry.load_all()
    for error in registry.broken.values():
        log.error("%s", error)
    if not loaded:
        raise GraphError("no graph can be loaded")
    tiers = {settings.tier}
    if child.every_tier:
        tiers |= {graph.tier for graph in loaded if graph.tier} | set(_graph_tiers(settings).values())
    classes = (Priority.RECOVERY,) if child.standby else tuple(Priority)
    started_ms = clock.now_ms()
    services: list[WorkerService] = []

    def describe() -> WorkerInfo:
        return WorkerInfo(
            worker_id=child.worker_id,
            host=socket.gethostname(),
            pid=os.getpid(),
            tier=settings.tier,
            slots=settings.slots,
            standby=child.standby,
            state="draining" if any(service.draining for service in services) else "ready",
            held=executor.held,
            graphs=registry.names,
            started_ms=started_ms,
        )

    @contextlib.asynccontextmanager
    async def open_store() -> AsyncIterator[TaskStore]:
        async with connect(settings, clock) as keeper_ports:
            yield keeper_ports.store

    async with connect(settings, clock) as ports:

        def savers(lease: Lease, before_put: Callable[[], Awaitable[None]]) -> BaseCheckpointSaver[str]:
            return ValkeySaver(
                ports.client, lease=lease, before_put=before_put, patience_s=CHECKPOINT_PATIENCE_S, clock=clock
            )

        @functools.cache
        def long_term(tenant: Tenant) -> ValkeyLongTerm:
            return ValkeyLongTerm(ports.client, index=cast(IndexConfig | None, registry.store_index), tenant=tenant)

        runner = GraphRunner(registry, ports.store, savers, long_term, clock)
        keeper = LeaseKeeper(open_store, clock, settings.lease_ttl_ms, describe)
        executor = Executor(runner, ports.store, ports.broker, keeper, clock)
        services.extend(
            WorkerService(
                worker_id=child.worker_id,
                tier=tier,
                slots=settings.slots,
                classes=classes,
                store=ports.store,
                broker=ports.broker,
                executor=executor,
                clock=clock,
                lease_ttl_ms=settings.lease_ttl_ms,
                drain_timeout_s=settings.drain_timeout_s,
                report=report.held,
                report_turn=report.in_turn,
            )
            for tier in sorted(tiers)
        )
        drain = partial(_drain, services)
        loop.add_signal_handler(signal.SIGTERM, drain)
        leaving = asyncio.create_task(_call_when(alone, drain))
        with keeper:
            report.ready()
            async with asyncio.TaskGroup() as group:
                for service in services:
                    group.create_task(service.run())
        leaving.cancel()


def _drain(services: Sequence[WorkerService]) -> None:
    for service in services:
        service.drain()


async def _call_when(event: asyncio.Event, call: Callable[[], None]) -> None:
    await event.wait()
    call()


def worker_child() -> None:
    """The main function of a worker process. Ends the process, whatever threads a graph has left hanging."""
    child = msgspec.json.decode(sys.stdin.buffer.readline(), type=ChildSettings)
    configure_logs(child.settings.log_level, as_json=child.settings.log_json, who=f"worker {child.worker_id}")
    report = ReportWriter.from_environment()

    async def work() -> int:
        loop, alone = asyncio.get_running_loop(), asyncio.Event()

        def on_input() -> None:
            # Nothing more is ever sent, so this is the end of the input: the supervisor is gone.
            loop.remove_reader(sys.stdin.fileno())
            alone.set()

        loop.add_reader(sys.stdin.fileno(), on_input)
        try:
            await run_worker_child(child, report, alone)
        except GraphError as error:
            log.error("%s", error)
            return EXIT_BROKEN_GRAPH
        return 0

    async def main() -> None:
        code = 1
        try:
            code = await work()
        except Exception:
            log.exception("the worker failed")
        finally:
            # A thread that hangs in an author's code would keep a tidy exit waiting for ever.
            logging.shutdown()
            os._exit(code)

    uvloop.run(main())


if __name__ == "__main__":
    worker_child()
