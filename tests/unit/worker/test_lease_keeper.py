"""The lease keeper: leases live while the event loop is blocked, and a holder stops by its own clock."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Sequence

import pytest

from perdure.clock import SystemClock
from perdure.errors import StoreUnavailable
from perdure.lifecycle.ids import WorkerId
from perdure.lifecycle.lease import Lease
from perdure.store.base import TaskStore, WorkerInfo
from perdure.store.memory import MemoryStore
from perdure.testing.samples import FakeClock, make_spec, ref_of
from perdure.worker.lease_keeper import LeaseKeeper

pytestmark = pytest.mark.anyio


class WatchedStore(MemoryStore):
    """Says when it was asked to renew; can be away (`broken`) or silent (`hung`)."""

    def __init__(self) -> None:
        super().__init__(SystemClock())
        self.renewed = threading.Semaphore(0)
        self.beaten = threading.Semaphore(0)
        self.mode = "up"

    async def renew(self, leases: Sequence[Lease]) -> Sequence[bool]:
        await self._answer()
        kept = await super().renew(leases)
        self.renewed.release()
        return kept

    async def heartbeat(self, worker: WorkerInfo, ttl_ms: int) -> None:
        await self._answer()
        await super().heartbeat(worker, ttl_ms)
        self.beaten.release()

    async def _answer(self) -> None:
        if self.mode == "broken":
            raise StoreUnavailable("the store was told to be away")
        if self.mode == "faulty":
            raise ValueError("an answer that nobody expected")
        if self.mode == "hung":
            await asyncio.get_running_loop().create_future()


class Loss:
    """Hears `on_lost` on the keeper's thread."""

    def __init__(self) -> None:
        self.reasons: list[str] = []
        self.at: float | None = None
        self._told = threading.Event()

    def __call__(self, reason: str) -> None:
        self.reasons.append(reason)
        self.at = SystemClock().monotonic()
        self._told.set()

    async def wait_told(self, timeout_s: float = 10.0) -> bool:
        return await asyncio.to_thread(self._told.wait, timeout_s)


def describe() -> WorkerInfo:
    return WorkerInfo(WorkerId("w-test"), "here", 1, "cpu", 1, False, "ready", [], [], 0)


def keeper_of(store: TaskStore, ttl_ms: int) -> LeaseKeeper:
    @contextlib.asynccontextmanager
    async def open_store() -> AsyncIterator[TaskStore]:
        yield store

    return LeaseKeeper(open_store, SystemClock(), ttl_ms, describe)


async def lease_of(store: MemoryStore, ttl_ms: int) -> Lease:
    spec = make_spec()
    await store.create(spec)
    claim = await store.claim(ref_of(spec), WorkerId("w-test"), ttl_ms)
    assert claim is not None
    return claim.lease


async def test_leases_are_renewed_while_the_event_loop_is_blocked() -> None:
    """A node that eats the loop for many lease times does not look dead."""
    store = WatchedStore()
    lease = await lease_of(store, 300)
    with keeper_of(store, 300) as keeper:
        lost = Loss()
        keeper.hold(lease, lost)
        for _ in range(8):  # blocks this very loop for eight renewals, more than two lease times
            assert store.renewed.acquire(timeout=5)
        assert await store.renew([lease]) == [True]
        assert lost.reasons == []


async def test_a_superseded_lease_is_told_once_and_renewed_no_more() -> None:
    store = WatchedStore()
    lease, other = await lease_of(store, 60_000), await lease_of(store, 60_000)
    with keeper_of(store, 60_000) as keeper:
        lost, kept = Loss(), Loss()
        keeper.hold(lease, lost)
        keeper.hold(other, kept)
        located = await store.locate(lease.task_id, lease.tenant)
        assert located is not None
        await store.cancel(located)
        keeper.nudge()
        assert await lost.wait_told()
        keeper.nudge()
        assert await asyncio.to_thread(store.renewed.acquire, timeout=5)
        assert (lost.reasons, kept.reasons) == (["superseded"], [])


async def test_a_dropped_lease_is_not_missed() -> None:
    store = WatchedStore()
    lease = await lease_of(store, 60_000)
    with keeper_of(store, 60_000) as keeper:
        lost = Loss()
        keeper.hold(lease, lost)
        keeper.drop(lease)
        keeper.drop(lease)
        store.mode = "broken"
        keeper.nudge()
    assert lost.reasons == []


@pytest.mark.parametrize("mode", ["broken", "hung", "faulty"])
async def test_a_holder_stops_by_its_own_clock_before_the_lease_ends(mode: str) -> None:
    """Whether the store refuses, hangs or talks nonsense: the holder stops before another may have the task."""
    ttl_ms = 1_500
    store = WatchedStore()
    lease = await lease_of(store, ttl_ms)
    with keeper_of(store, ttl_ms) as keeper:
        lost = Loss()
        keeper.hold(lease, lost)
        assert await asyncio.to_thread(store.renewed.acquire, timeout=5)
        renewed_at = SystemClock().monotonic()
        store.mode = mode
        assert await lost.wait_told()
        assert lost.at is not None
        assert lost.reasons == ["unconfirmed"]
        assert lost.at - renewed_at < ttl_ms / 1000
        store.mode = "up"


async def test_a_store_that_comes_back_in_time_costs_nothing() -> None:
    store = WatchedStore()
    lease = await lease_of(store, 3_000)
    with keeper_of(store, 3_000) as keeper:
        lost = Loss()
        keeper.hold(lease, lost)
        store.mode = "broken"
        keeper.nudge()
        store.mode = "up"
        for _ in range(2):
            keeper.nudge()
            assert await asyncio.to_thread(store.renewed.acquire, timeout=5)
        assert lost.reasons == []


async def test_the_heartbeat_tells_of_the_worker_and_leaving_ends_it() -> None:
    store = WatchedStore()
    with keeper_of(store, 60_000):
        assert await asyncio.to_thread(store.beaten.acquire, timeout=5)
        assert [worker.worker_id for worker in await store.workers()] == ["w-test"]
    assert await store.workers() == []


async def test_a_keeper_that_cannot_reach_the_store_says_so_instead_of_hanging() -> None:
    """A worker that starts while the store is away must end, for its supervisor to start it again."""

    @contextlib.asynccontextmanager
    async def away() -> AsyncIterator[TaskStore]:
        raise StoreUnavailable("the store was told to be away")
        yield  # type: ignore[unreachable]

    keeper = LeaseKeeper(away, SystemClock(), 1_000, describe)
    with pytest.raises(StoreUnavailable):
        keeper.__enter__()


async def test_a_process_whose_loop_never_hears_of_a_lost_lease_is_ended() -> None:
    """A node that blocks the loop for ever must not keep the other leases of its process alive for ever."""
    clock, store = FakeClock(), MemoryStore(SystemClock())
    spec = make_spec()
    await store.create(spec)
    claim = await store.claim(ref_of(spec), WorkerId("w"), 60_000)
    assert claim is not None
    ended: list[bool] = []
    told: list[str] = []
    info = WorkerInfo(WorkerId("w"), "host", 1, "cpu", 1, False, "ready", [], [], 0)
    keeper = LeaseKeeper(lambda: contextlib.nullcontext(store), clock, 60_000, lambda: info, lambda: ended.append(True))
    keeper.hold(claim.lease, told.append)
    await store.cancel(ref_of(spec))
    keeping = asyncio.create_task(keeper.keep(store))
    async with asyncio.timeout(10):
        while not told:  # noqa: ASYNC110 - the keeper is stepped by hand
            await asyncio.sleep(0)
        assert not ended
        while not ended:
            clock.advance(10_000)
            keeper.nudge()
            await asyncio.sleep(0)
    keeper.leave()
    await keeping
