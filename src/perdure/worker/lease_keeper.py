"""Keeps leases alive from a thread of its own, so that a blocked event loop does not look like a dead worker.

It also sends the worker's heartbeat, for the same reason. A holder whose lease could not be renewed stops by its own
clock, before the store gives the lease to another.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Final, Self

from perdure.clock import Clock
from perdure.errors import StoreUnavailable
from perdure.lifecycle.lease import Lease, renew_every_s, stop_before_s
from perdure.store.base import TaskStore, WorkerInfo

log = logging.getLogger(__name__)

HEARTBEAT_EVERY_S: Final = 2.0
HEARTBEAT_TTL_MS: Final = 8_000

OnLost = Callable[[str], None]


class LeaseKeeper:
    """Use as a context manager. `hold` and `drop` may be called from any thread.

    `open_store` makes a store for the keeper's own event loop; `describe` tells what the heartbeat says.
    """

    def __init__(
        self,
        open_store: Callable[[], AbstractAsyncContextManager[TaskStore]],
        clock: Clock,
        ttl_ms: int,
        describe: Callable[[], WorkerInfo],
    ) -> None:
        self._open_store = open_store
        self._clock = clock
        self._ttl_ms = ttl_ms
        self._describe = describe
        self._held: dict[str, tuple[Lease, OnLost, float]] = {}
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._keep()), name="lease-keeper", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake: asyncio.Event | None = None
        self._started = threading.Event()
        self._stopping = False

    def __enter__(self) -> Self:
        self._thread.start()
        self._started.wait()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping = True
        self.nudge()
        self._thread.join(timeout=5)

    def hold(self, lease: Lease, on_lost: OnLost) -> None:
        """Renew `lease` from now on. `on_lost(why)` is called once, from the keeper's thread, if it is lost."""
        with self._lock:
            self._held[lease.fence + lease.thread_id] = (lease, on_lost, self._clock.monotonic())

    def drop(self, lease: Lease) -> None:
        """Renew it no more. Safe to repeat."""
        with self._lock:
            self._held.pop(lease.fence + lease.thread_id, None)

    def nudge(self) -> None:
        """Renew and send the heartbeat now."""
        if self._loop is not None and self._wake is not None:
            try:
                self._loop.call_soon_threadsafe(self._wake.set)
            except RuntimeError:
                return  # The keeper has just ended.

    async def _keep(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        async with self._open_store() as store:
            self._started.set()
            beat_at = -1e9
            while not self._stopping:
                await self._renew(store)
                if self._clock.monotonic() - beat_at >= HEARTBEAT_EVERY_S or self._wake.is_set():
                    beat_at = self._clock.monotonic()
                    await self._beat(store)
                self._wake.clear()
                try:
                    async with asyncio.timeout(min(renew_every_s(self._ttl_ms), HEARTBEAT_EVERY_S)):
                        await self._wake.wait()
                except TimeoutError:
                    continue
            try:
                await store.forget_worker(self._describe().worker_id)
            except StoreUnavailable as error:
                log.debug("could not say good-bye: %s", error)

    async def _beat(self, store: TaskStore) -> None:
        try:
            await store.heartbeat(self._describe(), HEARTBEAT_TTL_MS)
        except StoreUnavailable as error:
            log.warning("no heartbeat: %s", error)

    async def _renew(self, store: TaskStore) -> None:
        with self._lock:
            held = list(self._held.values())
        if not held:
            return
        asked_at = self._clock.monotonic()
        try:
            async with asyncio.timeout(renew_every_s(self._ttl_ms)):
                kept = await store.renew([lease for lease, _, _ in held])
        except (StoreUnavailable, TimeoutError) as error:
            log.warning("leases were not renewed: %s", error or "the store did not answer in time")
            self._stop_overdue()
            return
        for (lease, on_lost, _), ok in zip(held, kept, strict=True):
            key = lease.fence + lease.thread_id
            with self._lock:
                if key not in self._held:
                    continue
                if ok:
                    self._held[key] = (lease, on_lost, asked_at)
                else:
                    del self._held[key]
            if not ok:
                on_lost("superseded")

    def _stop_overdue(self) -> None:
        now = self._clock.monotonic()
        with self._lock:
            overdue = [entry for entry in self._held.values() if now - entry[2] >= stop_before_s(entry[0].ttl_ms) - 0.1]
            for lease, _, _ in overdue:
                del self._held[lease.fence + lease.thread_id]
        for _, on_lost, _ in overdue:
            on_lost("unconfirmed")
