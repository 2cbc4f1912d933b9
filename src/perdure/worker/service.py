"""One worker process: hears doorbells, claims tasks into its slots, drains when told."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from typing import Final

from perdure.broker.base import Broker, Delivery
from perdure.clock import Clock
from perdure.errors import BrokerUnavailable, StoreUnavailable
from perdure.lifecycle.doorbell import ThreadRef
from perdure.lifecycle.ids import WorkerId
from perdure.lifecycle.task import Priority
from perdure.store.base import TaskStore
from perdure.worker.executor import Executor

log = logging.getLogger(__name__)

RETRY_FIRST_S: Final = 0.05
RETRY_MAX_S: Final = 2.0


class WorkerService:
    """`run` works until `drain` is called and everything held has come to rest.

    `report(held, thread)` is called before a thread is claimed (True) and after it was let go (False), so that
    whoever watches this process knows what to take back if it dies; `report_turn(thread)` when a suspect begins to run.
    """

    def __init__(
        self,
        *,
        worker_id: WorkerId,
        tier: str,
        slots: int,
        classes: Sequence[Priority],
        store: TaskStore,
        broker: Broker,
        executor: Executor,
        clock: Clock,
        lease_ttl_ms: int,
        drain_timeout_s: float,
        report: Callable[[bool, ThreadRef], None],
        report_turn: Callable[[ThreadRef], None] = lambda thread: None,
    ) -> None:
        self._worker_id = worker_id
        self._tier = tier
        self._slots = slots
        self._classes = classes
        self._store = store
        self._broker = broker
        self._executor = executor
        self._clock = clock
        self._lease_ttl_ms = lease_ttl_ms
        self._drain_timeout_s = drain_timeout_s
        self._report = report
        self._report_turn = report_turn
        self._draining = asyncio.Event()
        self._busy: set[asyncio.Task[None]] = set()
        self._freed = asyncio.Event()

    @property
    def draining(self) -> bool:
        return self._draining.is_set()

    def drain(self) -> None:
        """Take nothing more; stop what is held after its running step. Safe to repeat."""
        if not self._draining.is_set():
            self._draining.set()
            self._executor.drain()

    async def run(self) -> None:
        """Work until drained. Cancelling stops everything held in the middle of its step and gives it back.

        Drains and raises what went wrong if it can hear no more rings: a deaf worker must not look alive.
        """
        draining = asyncio.create_task(self._draining.wait(), name="drain")
        ears = [
            asyncio.create_task(self._listen(), name="consumer"),
            asyncio.create_task(self._obey(), name="orders"),
        ]
        patience_s = 0.0
        try:
            await asyncio.wait([draining, *ears], return_when=asyncio.FIRST_COMPLETED)
            deaf = [ear for ear in ears if ear.done()]
            self.drain()
            patience_s = self._drain_timeout_s
        finally:
            for task in (draining, *ears):
                task.cancel()
            await asyncio.wait([draining, *ears])
            await self._come_to_rest(patience_s)
        for ear in deaf:
            ear.result()

    async def _come_to_rest(self, patience_s: float) -> None:
        if self._busy and patience_s:
            await asyncio.wait(self._busy, timeout=patience_s)
        if self._busy:
            log.warning("%d tasks did not finish their step in time and are stopped in it", len(self._busy))
            self._executor.cancel_all("drain")
            await asyncio.wait(self._busy, timeout=5)

    async def _listen(self) -> None:
        delay = RETRY_FIRST_S
        async with self._broker.consume(self._tier, self._worker_id, self._classes) as consumer:
            while True:
                await self._wait_free()
                try:
                    deliveries = await consumer.receive(self._slots - len(self._busy))
                    delay = RETRY_FIRST_S
                except BrokerUnavailable as error:
                    log.warning("the broker is away: %s", error)
                    await asyncio.sleep(delay)
                    delay = min(delay * 2, RETRY_MAX_S)
                    continue
                if self._draining.is_set():
                    return  # Leaving gives back what was received.
                for delivery in deliveries:
                    task = asyncio.create_task(self._answer(delivery), name=f"slot {delivery.doorbell.ref.task_id}")
                    self._busy.add(task)
                    task.add_done_callback(self._on_free)

    async def _wait_free(self) -> None:
        while len(self._busy) >= self._slots:
            self._freed.clear()
            await self._freed.wait()

    def _on_free(self, task: asyncio.Task[None]) -> None:
        self._busy.discard(task)
        self._freed.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a slot failed", exc_info=error)

    async def _answer(self, delivery: Delivery) -> None:
        ref = delivery.doorbell.ref
        self._report(True, ref.thread)
        try:
            try:
                claimed_at = self._clock.monotonic()
                claim = await self._store.claim(ref, self._worker_id, self._lease_ttl_ms)
            except StoreUnavailable as error:
                log.warning("could not claim %s, its ring goes back: %s", ref.task_id, error)
                with contextlib.suppress(BrokerUnavailable):
                    await delivery.release()
                await asyncio.sleep(RETRY_MAX_S)
                return
            # The store holds the truth from here on: a ring that is not acked only rings once more for nothing.
            with contextlib.suppress(BrokerUnavailable):
                await delivery.ack()
            if claim is not None:
                if self._draining.is_set():
                    # Claimed while the drain began; the executor has not seen it yet.
                    asyncio.get_running_loop().call_soon(self._executor.drain)
                await self._executor.execute(claim, lambda: self._report_turn(ref.thread), claimed_at)
        finally:
            self._report(False, ref.thread)

    async def _obey(self) -> None:
        async with self._store.orders(self._worker_id) as orders:
            async for task_id in orders:
                await self._executor.order(task_id)
