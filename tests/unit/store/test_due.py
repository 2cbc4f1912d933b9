"""When the rescuer is to look at a thread: deadlines and appointments are kept to the moment, on both stores."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from perdure.clock import SystemClock
from perdure.lifecycle.doorbell import Doorbell
from perdure.lifecycle.task import TaskSpec
from perdure.store.base import TaskStore
from perdure.store.memory import MemoryStore
from perdure.store.valkey import ValkeyStore
from perdure.testing.samples import FakeClock, make_spec, ref_of
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


async def is_due(store: TaskStore, spec: TaskSpec) -> bool:
    return any(due.thread == ref_of(spec).thread for due in await store.due(10_000))


@pytest.mark.parametrize("after_ms", [1_000, 4_000, 60_000])
@pytest.mark.parametrize("field", ["deadline_ms", "not_before_ms"])
async def test_a_thread_is_due_at_its_appointment_and_not_seconds_later(
    store: TaskStore, clock: FakeClock, field: str, after_ms: int
) -> None:
    at = clock.now_ms() + after_ms
    spec = make_spec(**{field: at})
    await store.create(spec)
    clock.time_ms = min(at, clock.time_ms + 5_000) - SLACK_MS
    assert not await is_due(store, spec)
    clock.time_ms += SLACK_MS
    for due in await store.due(10_000):
        if due.thread == ref_of(spec).thread:
            rung: Doorbell | None = await store.rescue(due)
            # A real store's own clock has not moved, so for it nothing has come yet; it sets the next look.
            assert rung is None or rung.ref == ref_of(spec)
    if clock.time_ms < at:
        if field == "not_before_ms":  # one that only has a deadline is rung for in between
            clock.time_ms = at - SLACK_MS
            assert not await is_due(store, spec)
        clock.time_ms = at
        assert await is_due(store, spec)
