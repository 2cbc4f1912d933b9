"""A worker in this process: memory store and broker, a real lease keeper, and a runner that the test conducts."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
from langgraph.runtime import RunControl

from perdure.broker.memory import MemoryBroker
from perdure.clock import SystemClock
from perdure.graph.outcome import Drained, Finished, Outcome
from perdure.lifecycle.doorbell import ThreadRef
from perdure.lifecycle.ids import TaskId, WorkerId
from perdure.lifecycle.task import Priority, TaskSpec
from perdure.lifecycle.transitions import Status
from perdure.store.base import Claim, TaskStore, WorkerInfo
from perdure.store.memory import MemoryStore
from perdure.testing.samples import make_spec, ref_of
from perdure.worker.executor import Executor
from perdure.worker.lease_keeper import LeaseKeeper
from perdure.worker.service import WorkerService

LONG_TTL_MS = 60_000


def info(worker_id: str = "w-test") -> WorkerInfo:
    return WorkerInfo(
        worker_id=WorkerId(worker_id),
        host="here",
        pid=os.getpid(),
        tier="cpu",
        slots=2,
        standby=False,
        state="ready",
        held=[],
        graphs=[],
        started_ms=0,
    )


class ConductedRunner:
    """Runs a "graph" of steps that end when the test says so; between two steps it obeys a drain, as LangGraph does."""

    def __init__(self) -> None:
        self.claims: asyncio.Queue[Claim] = asyncio.Queue()
        self.cuts: asyncio.Queue[TaskId] = asyncio.Queue()
        self._steps: dict[TaskId, asyncio.Queue[Outcome | Exception | None]] = {}

    async def run(self, claim: Claim, control: RunControl) -> Outcome:
        steps: asyncio.Queue[Outcome | Exception | None] = asyncio.Queue()
        self._steps[claim.task.task_id] = steps
        self.claims.put_nowait(claim)
        try:
            while True:
                ended = await steps.get()
                if isinstance(ended, Exception):
                    raise ended
                if ended is not None:
                    return ended
                if control.drain_requested:
                    return Drained()
        except asyncio.CancelledError:
            self.cuts.put_nowait(claim.task.task_id)
            raise

    async def next_claim(self) -> Claim:
        """The next task that a slot has begun to run."""
        async with asyncio.timeout(5):
            return await self.claims.get()

    async def next_cut(self) -> TaskId:
        """The next task that was stopped in the middle of a step."""
        async with asyncio.timeout(5):
            return await self.cuts.get()

    def end_step(self, claim: Claim, outcome: Outcome | Exception | None = None) -> None:
        """End the running step: with the next one to follow, with the task's outcome, or with a fault."""
        self._steps[claim.task.task_id].put_nowait(outcome)


class Shop:
    """One worker and everything around it."""

    def __init__(self, store: MemoryStore, broker: MemoryBroker, runner: ConductedRunner, keeper: LeaseKeeper) -> None:
        self.store, self.broker, self.runner = store, broker, runner
        self.executor = Executor(runner, store, broker, keeper, SystemClock())  # type: ignore[arg-type]
        self.reports: list[tuple[bool, ThreadRef]] = []
        self.running: asyncio.Task[None] | None = None

    def serve(self, *, slots: int = 2, drain_timeout_s: float = 5.0, broker: Any = None) -> WorkerService:
        """Start the worker's service; it is stopped with the test."""
        service = WorkerService(
            worker_id=WorkerId("w-test"),
            tier="cpu",
            slots=slots,
            classes=tuple(Priority),
            store=self.store,
            broker=broker or self.broker,
            executor=self.executor,
            clock=SystemClock(),
            lease_ttl_ms=LONG_TTL_MS,
            drain_timeout_s=drain_timeout_s,
            report=lambda held, thread: self.reports.append((held, thread)),
        )
        self.running = asyncio.create_task(service.run())
        return service

    async def submit(self, **fields: Any) -> TaskSpec:
        spec = make_spec(**fields)
        created = await self.store.create(spec)
        if created.doorbell is not None:
            await self.broker.publish([created.doorbell])
        return spec

    async def claimed(self, **fields: Any) -> Claim:
        """A task of ours, for the executor alone."""
        spec = make_spec(**fields)
        await self.store.create(spec)
        claim = await self.store.claim(ref_of(spec), WorkerId("w-test"), LONG_TTL_MS)
        assert claim is not None
        return claim

    async def until(self, spec: TaskSpec, status: Status) -> None:
        """Wait, told by the task's stream, until the task has a status."""
        async with asyncio.timeout(5), self.store.follow(ref_of(spec).thread) as feed:
            async for _ in feed:
                if (await self.store.get(ref_of(spec))).status is status:
                    return


def opening(store: TaskStore) -> Callable[[], AbstractAsyncContextManager[TaskStore]]:
    @contextlib.asynccontextmanager
    async def open_store() -> AsyncIterator[TaskStore]:
        yield store

    return open_store


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore(SystemClock())


@pytest.fixture
async def shop(store: MemoryStore) -> AsyncIterator[Shop]:
    keeper = LeaseKeeper(opening(store), SystemClock(), LONG_TTL_MS, info)
    with keeper:
        shop = Shop(store, MemoryBroker(), ConductedRunner(), keeper)
        yield shop
        if shop.running is not None:
            shop.running.cancel()
            await asyncio.wait([shop.running])
            if not shop.running.cancelled():
                shop.running.exception()


@pytest.fixture
def finished() -> Callable[[], Finished]:
    return lambda: Finished(b'{"ok":true}')


__all__: Sequence[str] = ("ConductedRunner", "Shop", "info", "opening")
