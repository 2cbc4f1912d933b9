"""What the simulation has found, each shown alone: these were broken once."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

from langgraph.checkpoint.serde.types import ERROR, INTERRUPT

from perdure.checkpoint.saver import worth_keeping
from perdure.errors import StoreUnavailable
from perdure.lifecycle.ids import DEFAULT_TENANT, TaskId, ThreadId, Token, WorkerId
from perdure.lifecycle.lease import Lease
from perdure.store.base import TaskStore, WorkerInfo
from perdure.store.memory import MemoryStore
from perdure.testing.simulation.clock import SimClock
from perdure.testing.simulation.loop import VirtualLoop
from perdure.worker.lease_keeper import LeaseKeeper

TTL_MS = 3_000


class AwayStore(MemoryStore):
    """A store that answers no renewal."""

    async def renew(self, leases: Sequence[Lease]) -> Sequence[bool]:
        raise StoreUnavailable("the store was told to be away")


@contextlib.asynccontextmanager
async def never_opened() -> AsyncIterator[TaskStore]:
    raise AssertionError("no thread is started here")
    yield  # type: ignore[unreachable]


def describe() -> WorkerInfo:
    return WorkerInfo(WorkerId("w"), "here", 1, "cpu", 1, False, "ready", [], [], 0)


def test_a_lease_counts_from_when_it_was_asked_for() -> None:
    """A claim whose answer came late has begun already: its holder stops before the store's time is over."""
    loop = VirtualLoop()
    clock = SimClock(loop, 0)
    lease = Lease(DEFAULT_TENANT, ThreadId("t"), TaskId("k"), Token(1), "n", WorkerId("w"), TTL_MS)

    async def lost_at(answer_took_s: float) -> float:
        keeper = LeaseKeeper(never_opened, clock, TTL_MS, describe)
        keeping = loop.create_task(keeper.keep(AwayStore(clock)))
        await asyncio.sleep(0.1)
        claimed_at, lost = clock.monotonic(), asyncio.Event()
        await asyncio.sleep(answer_took_s)
        keeper.hold(lease, lambda _: lost.set(), claimed_at)
        await lost.wait()
        lasted_s = clock.monotonic() - claimed_at
        keeper.leave()
        await keeping
        return lasted_s

    try:
        for answer_took_s in (0.0, 0.5, 1.2, 2.2):
            assert loop.run_until_complete(lost_at(answer_took_s)) < TTL_MS / 1000
    finally:
        loop.close()


def test_of_a_failed_node_only_its_failure_is_kept() -> None:
    """What a node wrote before its edges failed would count as its finished output, and end the graph there."""
    failure = (ERROR, "ValueError")
    assert worth_keeping([("done", 1), failure]) == [failure]
    assert worth_keeping([("done", 1), (INTERRUPT, "?")]) == [("done", 1), (INTERRUPT, "?")]
