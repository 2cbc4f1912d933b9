"""The worker's service: hears rings, claims, respects its slots, drains, and does not live on deaf."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

import pytest

from perdure.broker.base import Consumer, Delivery
from perdure.broker.memory import MemoryBroker
from perdure.clock import SystemClock
from perdure.errors import StoreUnavailable
from perdure.graph.outcome import Finished
from perdure.lifecycle.doorbell import Doorbell, TaskRef
from perdure.lifecycle.ids import WorkerId
from perdure.lifecycle.task import Priority
from perdure.lifecycle.transitions import Status
from perdure.store.base import Claim
from perdure.store.memory import MemoryStore
from perdure.testing.samples import ref_of

from .conftest import Shop

pytestmark = pytest.mark.anyio


async def left(shop: Shop) -> None:
    """Wait until the service has ended by itself."""
    assert shop.running is not None
    async with asyncio.timeout(8):
        await shop.running


async def test_a_ring_becomes_a_result(shop: Shop) -> None:
    shop.serve()
    spec = await shop.submit()
    shop.runner.end_step(await shop.runner.next_claim(), Finished(b"{}"))
    await shop.until(spec, Status.SUCCEEDED)
    assert await shop.broker.depth("cpu") == 0


async def test_the_supervisor_hears_of_a_thread_before_it_is_claimed_and_after_it_is_let_go(shop: Shop) -> None:
    service = shop.serve()
    spec = await shop.submit()
    claim = await shop.runner.next_claim()
    assert shop.reports == [(True, ref_of(spec).thread)]
    shop.runner.end_step(claim, Finished(b"{}"))
    service.drain()
    await left(shop)
    assert shop.reports == [(True, ref_of(spec).thread), (False, ref_of(spec).thread)]


async def test_no_more_tasks_run_than_there_are_slots(shop: Shop) -> None:
    shop.serve(slots=2)
    specs = [await shop.submit() for _ in range(3)]
    first, second = await shop.runner.next_claim(), await shop.runner.next_claim()
    assert await shop.broker.depth("cpu") == 1, "the third waits in the broker, for anybody"
    shop.runner.end_step(first, Finished(b"{}"))
    third = await shop.runner.next_claim()
    for claim in (second, third):
        shop.runner.end_step(claim, Finished(b"{}"))
    for spec in specs:
        await shop.until(spec, Status.SUCCEEDED)


async def test_a_ring_for_what_cannot_be_claimed_is_acked_and_forgotten(shop: Shop) -> None:
    service = shop.serve()
    spec = await shop.submit()
    claim = await shop.runner.next_claim()
    await shop.broker.publish([Doorbell(ref_of(spec), "cpu", Priority.NORMAL)])  # a doubled message
    other = await shop.submit()
    shop.runner.end_step(await shop.runner.next_claim(), Finished(b"{}"))
    await shop.until(other, Status.SUCCEEDED)
    shop.runner.end_step(claim, Finished(b"{}"))
    service.drain()
    await left(shop)
    assert (await shop.store.get(ref_of(spec))).attempt == 1
    assert await shop.broker.depth("cpu") == 0


async def test_a_drain_finishes_running_steps_takes_nothing_new_and_leaves(shop: Shop) -> None:
    service = shop.serve(slots=2)
    running = await shop.submit()
    claim = await shop.runner.next_claim()
    service.drain()
    service.drain()
    waiting = await shop.submit()
    assert shop.running is not None
    assert not shop.running.done(), "a step runs"
    shop.runner.end_step(claim)
    await left(shop)
    task = await shop.store.get(ref_of(running))
    assert (task.status, task.reason) == (Status.QUEUED, "drain")
    assert (await shop.store.get(ref_of(waiting))).attempt == 0
    assert await shop.broker.depth("cpu") == 2, "both are rung for"


async def test_a_step_that_outlasts_the_drain_is_cut_and_handed_back(shop: Shop) -> None:
    service = shop.serve(drain_timeout_s=0.05)
    spec = await shop.submit()
    claim = await shop.runner.next_claim()
    service.drain()
    await left(shop)
    assert await shop.runner.next_cut() == claim.task.task_id
    task = await shop.store.get(ref_of(spec))
    assert (task.status, task.reason, task.losses) == (Status.QUEUED, "drain", 0)


async def test_cancelling_the_service_cuts_steps_at_once_and_hands_them_back(shop: Shop) -> None:
    shop.serve(drain_timeout_s=60)
    spec = await shop.submit()
    claim = await shop.runner.next_claim()
    assert shop.running is not None
    shop.running.cancel()
    async with asyncio.timeout(5):
        await asyncio.wait([shop.running])
    assert await shop.runner.next_cut() == claim.task.task_id
    assert (await shop.store.get(ref_of(spec))).status is Status.QUEUED


async def test_a_cancel_stops_the_running_step(shop: Shop) -> None:
    shop.serve()
    spec = await shop.submit()
    claim = await shop.runner.next_claim()
    ended = await shop.store.cancel(ref_of(spec))
    assert ended.worker is not None
    await shop.store.tell(ended.worker, spec.task_id)
    after = await shop.submit()
    shop.runner.end_step(await shop.runner.next_claim(), Finished(b"{}"))
    await shop.until(after, Status.SUCCEEDED)
    assert await shop.runner.next_cut() == claim.task.task_id


class ClumsyStore(MemoryStore):
    """Cannot be reached for the first claim."""

    refusals = 1

    async def claim(self, ref: TaskRef, worker: WorkerId, ttl_ms: int) -> Claim | None:
        if self.refusals:
            self.refusals -= 1
            raise StoreUnavailable("the store was told to be away")
        return await super().claim(ref, worker, ttl_ms)


class TestStoreAwayAtTheClaim:
    @pytest.fixture
    def store(self) -> MemoryStore:
        return ClumsyStore(SystemClock())

    async def test_the_ring_goes_back_and_the_task_runs_later(self, shop: Shop) -> None:
        shop.serve(slots=2)
        spec = await shop.submit()
        shop.runner.end_step(await shop.runner.next_claim(), Finished(b"{}"))
        await shop.until(spec, Status.SUCCEEDED)


async def test_a_broker_that_comes_back_is_heard_again(shop: Shop) -> None:
    shop.broker.away = True
    shop.serve()
    shop.broker.away = False
    spec = await shop.submit()
    shop.runner.end_step(await shop.runner.next_claim(), Finished(b"{}"))
    await shop.until(spec, Status.SUCCEEDED)


class DeafBroker(MemoryBroker):
    """Its consumer fails with something that nobody foresaw."""

    @contextlib.asynccontextmanager
    async def consume(
        self, tier: str, consumer: str, classes: Sequence[Priority] = tuple(Priority)
    ) -> AsyncIterator[Consumer]:
        yield _DeafConsumer()


class _DeafConsumer(Consumer):
    async def receive(self, free: int) -> Sequence[Delivery]:
        raise ValueError("a ring that nobody can read")


async def test_a_worker_that_went_deaf_ends_so_that_it_is_started_again(shop: Shop) -> None:
    """A worker that hears no rings but sends heartbeats would look alive for ever."""
    shop.serve(broker=DeafBroker())
    assert shop.running is not None
    async with asyncio.timeout(5):
        with pytest.raises(ValueError, match="nobody can read"):
            await shop.running
