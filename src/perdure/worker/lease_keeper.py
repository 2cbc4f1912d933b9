"""Keeps leases alive from a thread of its own, so that a blocked event loop does not look like a dead worker.

It also sends the worker's heartbeat, for the same reason. A holder whose lease could not be renewed stops by its own
clock, before the store gives the lease to another. All that is decided in `LeaseKeeper.keep`, which needs no thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
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
GOODBYE_S: Final = 2.0

HUNG_AFTER_S: Final = 30.0
EXIT_HUNG: Final = 70

OnLost = Callable[[str], None]


def _end_process() -> None:
    logging.shutdown()
    os._exit(EXIT_HUNG)


class LeaseKeeper:
    """Use as a context manager: a thread then hosts `keep`. `hold` and `drop` may be called from any thread.

    `open_store` makes a store for that thread's event loop; `describe` tells what the heartbeat says.
    """

    def __init__(
        self,
        open_store: Callable[[], AbstractAsyncContextManager[TaskStore]],
        clock: Clock,
        ttl_ms: int,
        describe: Callable[[], WorkerInfo],
        end_process: Callable[[], None] = _end_process,
    ) -> None:
        self._open_store = open_store
        self._clock = clock
        self._ttl_ms = ttl_ms
        self._describe = describe
        self._end_process = end_process
        self._held: dict[str, tuple[Lease, OnLost, float]] = {}
        self._unheard: dict[str, float] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake: asyncio.Event | None = None
        self._started = threading.Event()
        self._failure: BaseException | None = None
        self._stopping = False

    def __enter__(self) -> Self:
        """Raises what `open_store` raises."""
        self._thread = threading.Thread(target=self._run, name="lease-keeper", daemon=True)
        self._thread.start()
        self._started.wait()
        if self._failure is not None:
            raise self._failure
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave()
        if self._thread is not None:
            self._thread.join(timeout=5)

    def hold(self, lease: Lease, on_lost: OnLost, claimed_at: float | None = None) -> None:
        """Renew `lease` from now on. `on_lost(why)` is called once, from the keeper's thread, if it is lost.

        `claimed_at` is when the claim was asked for: the lease may have begun then, however late its answer came.
        """
        now = self._clock.monotonic()
        since = now if claimed_at is None else claimed_at
        with self._lock:
            self._held[lease.fence + lease.thread_id] = (lease, on_lost, since)
        if now - since > renew_every_s(lease.ttl_ms):
            self.nudge()  # The next look may come too late for what is left of this lease.

    def drop(self, lease: Lease) -> None:
        """Renew it no more. Safe to repeat."""
        with self._lock:
            self._held.pop(lease.fence + lease.thread_id, None)
            self._unheard.pop(lease.fence + lease.thread_id, None)

    def heard(self, lease: Lease) -> None:
        """The holder's event loop has heard that the lease is lost. If it never does, the process is ended."""
        with self._lock:
            self._unheard.pop(lease.fence + lease.thread_id, None)

    def nudge(self) -> None:
        """Renew and send the heartbeat now."""
        if self._loop is not None and self._wake is not None:
            try:
                self._loop.call_soon_threadsafe(self._wake.set)
            except RuntimeError:
                return  # The keeper has just ended.

    def leave(self) -> None:
        """End `keep`. Safe to repeat."""
        self._stopping = True
        self.nudge()

    async def keep(self, store: TaskStore) -> None:
        """Renew what is held and send the heartbeat until `leave`. Needs a loop that lives, not a thread of its own."""
        self._loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        self._started.set()
        beat_at = -1e9
        while not self._stopping:
            # Taken back before the look at the store, so that a nudge during the look gets one of its own.
            nudged = self._wake.is_set()
            self._wake.clear()
            await self._renew(store)
            self._give_up_on_a_hung_loop()
            if nudged or self._clock.monotonic() - beat_at >= HEARTBEAT_EVERY_S:
                beat_at = self._clock.monotonic()
                await self._beat(store)
            self._stop_overdue()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._patience_s()):
                    await self._wake.wait()
            self._stop_overdue()
        try:
            async with asyncio.timeout(GOODBYE_S):
                await store.forget_worker(self._describe().worker_id)
        except (StoreUnavailable, TimeoutError) as error:
            log.debug("could not say good-bye: %s", error)

    def _run(self) -> None:
        try:
            asyncio.run(self._host())
        except BaseException as error:
            self._failure = error
            if self._started.is_set():
                raise
        finally:
            self._started.set()

    async def _host(self) -> None:
        async with self._open_store() as store:
            await self.keep(store)

    async def _beat(self, store: TaskStore) -> None:
        try:
            async with asyncio.timeout(self._patience_s()):
                await store.heartbeat(self._describe(), HEARTBEAT_TTL_MS)
        except Exception as error:  # noqa: BLE001 - a store's strangest answer must not end the renewals
            log.warning("no heartbeat: %s", _told(error))

    async def _renew(self, store: TaskStore) -> None:
        with self._lock:
            held = list(self._held.values())
        if not held:
            return
        asked_at = self._clock.monotonic()
        try:
            async with asyncio.timeout(self._patience_s()):
                kept = await store.renew([lease for lease, _, _ in held])
        except Exception as error:  # noqa: BLE001 - whatever it was, these leases are not confirmed
            log.warning("leases were not renewed: %s", _told(error))
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
                    self._unheard[key] = asked_at
            if not ok:
                on_lost("superseded")

    def _give_up_on_a_hung_loop(self) -> None:
        """A node that never lets go of the event loop cannot be stopped, and keeps everything else here from going
        on while this thread keeps its leases alive. So the process ends, and its supervisor starts another."""
        now = self._clock.monotonic()
        with self._lock:
            hung = [key for key, at in self._unheard.items() if now - at > HUNG_AFTER_S]
        if hung:
            log.critical("a task that was stopped %.0f s ago still blocks this process, which ends now", HUNG_AFTER_S)
            self._end_process()

    def _patience_s(self) -> float:
        """How long the next wait may take: no holder may be found overdue later than its time."""
        now = self._clock.monotonic()
        with self._lock:
            left = [at + stop_before_s(lease.ttl_ms) - now for lease, _, at in self._held.values()]
        return max(0.0, min(renew_every_s(self._ttl_ms), HEARTBEAT_EVERY_S, *left))

    def _stop_overdue(self) -> None:
        now = self._clock.monotonic()
        with self._lock:
            overdue = [entry for entry in self._held.values() if now - entry[2] >= stop_before_s(entry[0].ttl_ms)]
            for lease, _, _ in overdue:
                del self._held[lease.fence + lease.thread_id]
        for _, on_lost, _ in overdue:
            on_lost("unconfirmed")


def _told(error: Exception) -> str:
    return "the store did not answer in time" if isinstance(error, TimeoutError) else f"{type(error).__name__}: {error}"
