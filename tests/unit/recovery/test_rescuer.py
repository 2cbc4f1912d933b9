"""The rescuer, on the memory store and a clock that moves only when told."""

from __future__ import annotations

import asyncio

import pytest

from perdure.broker.memory import MemoryBroker
from perdure.errors import StoreUnavailable
from perdure.lifecycle.doorbell import Doorbell
from perdure.lifecycle.ids import WorkerId
from perdure.lifecycle.task import Priority, TaskSpec
from perdure.lifecycle.transitions import Status
from perdure.recovery.rescuer import Rescuer
from perdure.store.base import Due
from perdure.store.memory import RING_AGAIN_MS, MemoryStore
from perdure.testing.samples import FakeClock, make_spec, ref_of

pytestmark = pytest.mark.anyio
TTL_MS = 10_000
W = WorkerId("w-1")


class Ward:
    """A store whose time the test moves, a broker, and the rescuer between them."""

    def __init__(self, store_type: type[MemoryStore] = MemoryStore) -> None:
        self.clock = FakeClock()
        self.store = store_type(self.clock)
        self.broker = MemoryBroker()
        self.rescuer = Rescuer(self.store, self.broker, look_every_s=0.01)

    async def rings(self) -> list[Doorbell]:
        """What has been rung since the last look."""
        heard: list[Doorbell] = []
        async with self.broker.consume("cpu", "ear") as ear:
            while await self.broker.depth("cpu"):
                for delivery in await ear.receive(100):
                    heard.append(delivery.doorbell)
                    await delivery.ack()
        return heard

    async def running(self, **fields: object) -> TaskSpec:
        spec = make_spec(**fields)
        await self.store.create(spec)
        assert await self.store.claim(ref_of(spec), W, TTL_MS) is not None
        return spec


@pytest.fixture
def ward() -> Ward:
    return Ward()


async def test_an_expired_lease_is_taken_away_and_rung_for_in_the_recovery_class(ward: Ward) -> None:
    spec = await ward.running()
    ward.clock.advance(TTL_MS - 1)
    await ward.rescuer.look()
    assert (await ward.store.get(ref_of(spec))).status is Status.RUNNING
    ward.clock.advance(1)
    await ward.rescuer.look()
    task = await ward.store.get(ref_of(spec))
    assert (task.status, task.reason, task.losses) == (Status.QUEUED, "lease_expired", 1)
    assert await ward.rings() == [Doorbell(ref_of(spec), "cpu", Priority.RECOVERY)]


async def test_a_renewed_lease_is_left_alone(ward: Ward) -> None:
    spec = make_spec()
    await ward.store.create(spec)
    claim = await ward.store.claim(ref_of(spec), W, TTL_MS)
    assert claim is not None
    for _ in range(5):
        ward.clock.advance(TTL_MS - 1)
        assert await ward.store.renew([claim.lease]) == [True]
        await ward.rescuer.look()
    assert (await ward.store.get(ref_of(spec))).status is Status.RUNNING


async def test_a_task_whose_attempts_are_used_up_is_buried(ward: Ward) -> None:
    spec = await ward.running(max_attempts=1)
    behind = make_spec(thread_id=spec.thread_id)
    await ward.store.create(behind)
    ward.clock.advance(TTL_MS)
    await ward.rescuer.look()
    assert (await ward.store.get(ref_of(spec))).status is Status.DEAD
    assert [bell.ref for bell in await ward.rings()] == [ref_of(behind)], "the thread goes on with its next task"


async def test_a_task_whose_ring_was_lost_is_rung_for_again_ever_more_rarely(ward: Ward) -> None:
    spec = make_spec()
    await ward.store.create(spec)
    gaps: list[int] = []
    waited = 0
    for _ in range(120):
        ward.clock.advance(RING_AGAIN_MS)
        waited += RING_AGAIN_MS
        await ward.rescuer.look()
        if await ward.rings():
            gaps.append(waited // RING_AGAIN_MS)
            waited = 0
    assert gaps[:5] == sorted(gaps[:5])
    assert gaps[0] <= 2
    assert 1 < len(gaps) < 20
    assert (await ward.store.get(ref_of(spec))).status is Status.QUEUED


async def test_a_deadline_ends_a_task_in_every_live_state(ward: Ward) -> None:
    at = ward.clock.now_ms() + 1_000
    running = await ward.running(deadline_ms=at)
    waiting = make_spec(thread_id=running.thread_id, deadline_ms=at)
    queued = make_spec(deadline_ms=at)
    for spec in (waiting, queued):
        await ward.store.create(spec)
    ward.clock.advance(1_000)
    await ward.rescuer.look()
    for spec in (running, waiting, queued):
        task = await ward.store.get(ref_of(spec))
        assert (task.status, task.reason) == (Status.FAILED, "deadline")
        assert task.error is not None


async def test_a_task_for_later_is_rung_for_when_its_time_comes(ward: Ward) -> None:
    spec = make_spec(not_before_ms=ward.clock.now_ms() + 60_000)
    assert (await ward.store.create(spec)).doorbell is None
    ward.clock.advance(59_999)
    await ward.rescuer.look()
    assert await ward.rings() == []
    ward.clock.advance(1)
    await ward.rescuer.look()
    assert [bell.ref for bell in await ward.rings()] == [ref_of(spec)]


async def test_nothing_expires_within_one_lease_time_of_the_stores_start(ward: Ward) -> None:
    """While the store was away nobody could renew; its holders get the time to do so."""
    spec = await ward.running()
    ward.clock.advance(TTL_MS * 5)
    ward.store.started_ms = ward.clock.now_ms()
    ward.clock.advance(TTL_MS - 1)
    await ward.rescuer.look()
    assert (await ward.store.get(ref_of(spec))).status is Status.RUNNING
    ward.clock.advance(1)
    await ward.rescuer.look()
    assert (await ward.store.get(ref_of(spec))).status is Status.QUEUED


async def test_a_broker_that_is_away_delays_the_ring_and_loses_nothing(ward: Ward) -> None:
    spec = await ward.running()
    ward.clock.advance(TTL_MS)
    ward.broker.away = True
    await ward.rescuer.look()
    assert (await ward.store.get(ref_of(spec))).status is Status.QUEUED
    ward.broker.away = False
    ward.clock.advance(RING_AGAIN_MS * 4)
    await ward.rescuer.look()
    assert [bell.ref for bell in await ward.rings()] == [ref_of(spec)]


async def test_two_rescuers_at_once_do_no_harm(ward: Ward) -> None:
    spec = await ward.running()
    ward.clock.advance(TTL_MS)
    await asyncio.gather(ward.rescuer.look(), Rescuer(ward.store, ward.broker).look())
    task = await ward.store.get(ref_of(spec))
    assert (task.status, task.losses) == (Status.QUEUED, 1)


async def test_one_thread_that_cannot_be_mended_does_not_keep_the_others_from_it() -> None:
    """A damaged record fails its own rescue, not everybody's."""

    class Damaged(MemoryStore):
        bad: object = None

        async def rescue(self, due: Due) -> Doorbell | None:
            if due.thread == self.bad:
                raise ValueError("a record that nobody can read")
            return await super().rescue(due)

    ward = Ward(Damaged)
    bad, good = await ward.running(), await ward.running()
    assert isinstance(ward.store, Damaged)
    ward.store.bad = ref_of(bad).thread
    ward.clock.advance(TTL_MS)
    await ward.rescuer.look()
    assert [bell.ref for bell in await ward.rings()] == [ref_of(good)]


async def test_it_waits_for_a_store_that_is_away_and_goes_on() -> None:
    class Away(MemoryStore):
        looks = 0

        async def due(self, limit: int) -> list[Due]:
            self.looks += 1
            if self.looks < 3:
                raise StoreUnavailable("the store was told to be away")
            return list(await super().due(limit))

    ward = Ward(Away)
    spec = await ward.running()
    ward.clock.advance(TTL_MS)
    looking = asyncio.create_task(ward.rescuer.run())
    async with asyncio.timeout(5), ward.broker.consume("cpu", "ear") as ear:
        [delivery] = await ear.receive(1)
    assert delivery.doorbell.ref == ref_of(spec)
    looking.cancel()
