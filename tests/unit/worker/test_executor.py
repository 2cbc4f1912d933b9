"""The executor: each way in which an attempt can end reaches the store, once, and the right doorbell is rung."""

from __future__ import annotations

import asyncio

import pytest

from perdure.clock import SystemClock
from perdure.errors import StoreUnavailable
from perdure.graph.outcome import Failed, Finished, Paused
from perdure.lifecycle.doorbell import Doorbell
from perdure.lifecycle.ids import WorkerId
from perdure.lifecycle.task import Interrupt, Priority, TaskError
from perdure.lifecycle.transitions import Status
from perdure.store.base import Ended
from perdure.store.memory import MemoryStore
from perdure.testing.samples import make_spec, ref_of

from .conftest import Shop

pytestmark = pytest.mark.anyio


async def heard(shop: Shop) -> Doorbell:
    """The next ring."""
    async with asyncio.timeout(5), shop.broker.consume("cpu", "ear") as ear:
        [delivery] = await ear.receive(1)
        await delivery.ack()
        return delivery.doorbell


async def test_a_result_ends_the_task_and_rings_for_the_next_of_the_thread(shop: Shop) -> None:
    claim = await shop.claimed()
    behind = make_spec(thread_id=claim.task.thread_id)
    await shop.store.create(behind)
    running = asyncio.create_task(shop.executor.execute(claim))
    shop.runner.end_step(await shop.runner.next_claim(), Finished(b'{"answer":42}'))
    await running
    task = await shop.store.get(ref_of(claim.task.spec))
    assert (task.status, bytes(task.result or b"")) == (Status.SUCCEEDED, b'{"answer":42}')
    assert await heard(shop) == Doorbell(ref_of(behind), "cpu", Priority.NORMAL)
    assert shop.executor.held == []


async def test_a_failure_keeps_its_error_and_rings_for_the_next_of_the_thread(shop: Shop) -> None:
    claim = await shop.claimed()
    behind = make_spec(thread_id=claim.task.thread_id)
    await shop.store.create(behind)
    running = asyncio.create_task(shop.executor.execute(claim))
    error = TaskError("ValueError", "no", node="plan")
    shop.runner.end_step(await shop.runner.next_claim(), Failed(error, "graph_error"))
    await running
    task = await shop.store.get(ref_of(claim.task.spec))
    assert (task.status, task.error, task.reason) == (Status.FAILED, error, "graph_error")
    assert (await heard(shop)).ref == ref_of(behind)


async def test_a_pause_keeps_the_thread_and_frees_the_worker(shop: Shop) -> None:
    claim = await shop.claimed()
    running = asyncio.create_task(shop.executor.execute(claim))
    shop.runner.end_step(await shop.runner.next_claim(), Paused([Interrupt("i", "ok?")], "cp-1"))
    await running
    task = await shop.store.get(ref_of(claim.task.spec))
    assert (task.status, task.interrupts, task.checkpoint_id) == (
        Status.INTERRUPTED,
        [Interrupt("i", "ok?")],
        "cp-1",
    )
    assert await shop.broker.depth("cpu") == 0


async def test_a_drain_lets_the_step_end_and_hands_the_task_back(shop: Shop) -> None:
    claim = await shop.claimed()
    running = asyncio.create_task(shop.executor.execute(claim))
    await shop.runner.next_claim()
    shop.executor.drain()
    assert shop.executor.held == [claim.task.task_id], "the running step goes on"
    shop.runner.end_step(claim)
    await running
    task = await shop.store.get(ref_of(claim.task.spec))
    assert (task.status, task.reason, task.losses) == (Status.QUEUED, "drain", 0)
    assert (await heard(shop)).ref == ref_of(claim.task.spec)


async def test_an_order_to_cancel_stops_the_step_in_its_middle(shop: Shop) -> None:
    claim = await shop.claimed()
    running = asyncio.create_task(shop.executor.execute(claim))
    await shop.runner.next_claim()
    ended = await shop.store.cancel(ref_of(claim.task.spec))
    assert ended.worker == "w-test"
    await shop.executor.order(claim.task.task_id)
    async with asyncio.timeout(5):
        await running
    assert await shop.runner.next_cut() == claim.task.task_id
    assert (await shop.store.get(ref_of(claim.task.spec))).status is Status.CANCELLED
    assert await shop.broker.depth("cpu") == 0, "nobody is rung for a task that ended"


async def test_an_old_order_stops_nothing(shop: Shop) -> None:
    """An order about a lease that is ours again, or about a task that we do not hold, is checked with the store."""
    claim = await shop.claimed()
    running = asyncio.create_task(shop.executor.execute(claim))
    await shop.runner.next_claim()
    await shop.executor.order(claim.task.task_id)
    await shop.executor.order(make_spec().task_id)
    shop.runner.end_step(claim, Finished(b"{}"))
    await running
    assert shop.runner.cuts.empty()
    assert (await shop.store.get(ref_of(claim.task.spec))).status is Status.SUCCEEDED


async def test_what_a_superseded_holder_brings_home_is_refused(shop: Shop) -> None:
    claim = await shop.claimed()
    running = asyncio.create_task(shop.executor.execute(claim))
    await shop.runner.next_claim()
    await shop.store.abandon(ref_of(claim.task.spec).thread, WorkerId("w-test"))
    again = await shop.store.claim(ref_of(claim.task.spec), WorkerId("w-other"), 60_000)
    assert again is not None
    shop.runner.end_step(claim, Finished(b'{"from":"the zombie"}'))
    await running
    task = await shop.store.get(ref_of(claim.task.spec))
    assert (task.status, task.worker, task.result) == (Status.RUNNING, "w-other", None)


async def test_a_fault_of_the_runner_gives_the_task_back_with_its_state(shop: Shop) -> None:
    claim = await shop.claimed()
    running = asyncio.create_task(shop.executor.execute(claim))
    shop.runner.end_step(await shop.runner.next_claim(), StoreUnavailable("away too long"))
    await running
    task = await shop.store.get(ref_of(claim.task.spec))
    assert (task.status, task.reason) == (Status.QUEUED, "retry")
    assert task.error is not None
    assert "away too long" in task.error.message


async def test_a_fault_of_the_runner_that_does_not_go_away_ends_the_task(shop: Shop) -> None:
    """Every retry has a bound: after `max_attempts` the task fails, and says why, instead of running for ever."""
    claim = await shop.claimed(max_attempts=1)
    running = asyncio.create_task(shop.executor.execute(claim))
    shop.runner.end_step(await shop.runner.next_claim(), RuntimeError("a bug of ours"))
    await running
    task = await shop.store.get(ref_of(claim.task.spec))
    assert task.status is Status.FAILED
    assert task.error is not None
    assert task.error.type == "RuntimeError"
    assert "a bug of ours" in task.error.message


class AbsentStore(MemoryStore):
    """Is away for the first tries to end a task; may carry the first one out and lose the answer."""

    def __init__(self, absences: int, *, arrives: bool) -> None:
        super().__init__(SystemClock())
        self.absences, self.arrives = absences, arrives

    async def succeed(self, *args: object, **kwargs: object) -> Ended:
        if self.absences:
            self.absences -= 1
            if self.arrives:
                await super().succeed(*args, **kwargs)  # type: ignore[arg-type]
            raise StoreUnavailable("the store was told to be away")
        return await super().succeed(*args, **kwargs)  # type: ignore[arg-type]


class TestStoreAwayAtTheEnd:
    @pytest.fixture
    def store(self) -> MemoryStore:
        return AbsentStore(2, arrives=False)

    async def test_a_result_waits_for_a_store_that_is_away(self, shop: Shop) -> None:
        claim = await shop.claimed()
        running = asyncio.create_task(shop.executor.execute(claim))
        shop.runner.end_step(await shop.runner.next_claim(), Finished(b"{}"))
        await running
        assert (await shop.store.get(ref_of(claim.task.spec))).status is Status.SUCCEEDED


class TestAnswerLostAtTheEnd:
    @pytest.fixture
    def store(self) -> MemoryStore:
        return AbsentStore(1, arrives=True)

    async def test_a_result_that_arrived_without_an_answer_counts_once(self, shop: Shop) -> None:
        claim = await shop.claimed()
        running = asyncio.create_task(shop.executor.execute(claim))
        shop.runner.end_step(await shop.runner.next_claim(), Finished(b'{"n":1}'))
        await running
        task = await shop.store.get(ref_of(claim.task.spec))
        assert (task.status, bytes(task.result or b"")) == (Status.SUCCEEDED, b'{"n":1}')
        said = [event.tag for event in (await shop.store.events(ref_of(task.spec).thread, 0)).events]
        assert len(said) == 3, "queued, running, succeeded: nothing is told twice"


async def test_a_broker_that_is_away_at_the_end_costs_only_the_ring(shop: Shop) -> None:
    claim = await shop.claimed()
    behind = make_spec(thread_id=claim.task.thread_id)
    await shop.store.create(behind)
    running = asyncio.create_task(shop.executor.execute(claim))
    shop.broker.away = True
    shop.runner.end_step(await shop.runner.next_claim(), Finished(b"{}"))
    await running
    assert (await shop.store.get(ref_of(claim.task.spec))).status is Status.SUCCEEDED
    assert (await shop.store.get(ref_of(behind))).status is Status.QUEUED
