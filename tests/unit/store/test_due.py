"""When the rescuer is to look at a thread: deadlines and appointments are kept to the moment, on both stores."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from perdure.clock import SystemClock
from perdure.lifecycle.ids import WorkerId
from perdure.lifecycle.task import TaskError, TaskSpec
from perdure.store.base import RING_AGAIN_MS, Due, TaskStore
from perdure.store.memory import MemoryStore
from perdure.store.valkey import ValkeyStore
from perdure.testing.samples import FakeClock, make_spec, ref_of
from perdure.valkey import keys
from perdure.valkey.connection import Client
from perdure.valkey.embedded import EmbeddedValkey

pytestmark = pytest.mark.anyio
SLACK_MS = 500
"""The store measures how far its own clock is from ours, which stands still here."""


@pytest.fixture
def clock() -> FakeClock:
    """Starts with the real time, by which a Valkey judges; then it moves only when told."""
    return FakeClock(SystemClock().now_ms())


@pytest.fixture(params=["memory", "valkey"])
async def store(request: pytest.FixtureRequest, clock: FakeClock, valkey: EmbeddedValkey) -> AsyncIterator[TaskStore]:
    if request.param == "memory":
        yield MemoryStore(clock)
        return
    async with Client(valkey.url) as client:
        opened = await ValkeyStore.open(client, clock)
        yield opened
        await opened.aclose()


async def next_look(store: TaskStore, spec: TaskSpec) -> float:
    """When the rescuer will look at a task's thread."""
    thread = ref_of(spec).thread
    if isinstance(store, MemoryStore):
        look = store._threads[thread].look_ms
        assert look is not None
        return look
    assert isinstance(store, ValkeyStore)
    address = keys.ref_text(thread)
    score: float = await store._client.call("ZSCORE", keys.live_index(keys.shard(address)), address)
    return score


@pytest.mark.parametrize("after_ms", [1_000, 4_000, 60_000])
@pytest.mark.parametrize("field", ["deadline_ms", "not_before_ms"])
async def test_a_thread_is_due_at_its_appointment_and_not_seconds_later(
    store: TaskStore, clock: FakeClock, field: str, after_ms: int
) -> None:
    now = clock.now_ms()
    spec = make_spec(**{field: now + after_ms})
    await store.create(spec)
    first = await next_look(store, spec)
    if field == "not_before_ms" and isinstance(store, MemoryStore):
        assert first == now + after_ms
    else:
        assert abs(first - min(now + after_ms, now + RING_AGAIN_MS)) < SLACK_MS
    if after_ms > RING_AGAIN_MS and not isinstance(store, MemoryStore):
        # A look that comes too early sets the time of the next one.
        await store.rescue(Due(ref_of(spec).thread, repr(first)))
        expected = now + after_ms if field == "not_before_ms" else now + 2 * RING_AGAIN_MS
        assert abs(await next_look(store, spec) - expected) < SLACK_MS


async def test_nothing_is_due_once_a_thread_is_idle_again(store: TaskStore) -> None:
    """Whoever writes the time of a look must be seen to have done so, also after a resume or a requeue."""
    spec = make_spec()
    await store.create(spec)
    for _ in range(2):
        claim = await store.claim(ref_of(spec), WorkerId("w"), 60_000)
        assert claim is not None
        await store.fail(claim.lease, TaskError("E", "m"), "graph_error")
        await store.requeue(ref_of(spec))
    await store.cancel(ref_of(spec))
    if isinstance(store, MemoryStore):
        assert store._threads[ref_of(spec).thread].look_ms is None
        return
    await store.rescue(Due(ref_of(spec).thread, repr(await next_look(store, spec))))
    assert await next_look(store, spec) is None
