"""Fan-out: one reader a thread follows the store, and all connections to that thread share what it reads.

A subscription first *replays* pages from the store after its own cursor; once it has reached what the reader has read
it goes *live* and gets the reader's chunks. Both steps happen between two awaits, so nothing is lost or doubled at the
seam. A live subscription whose buffer is full drops the buffer and replays again from its cursor: the store is the
buffer of the slow. A reader lives as long as it has subscribers.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import AsyncIterator, Sequence
from typing import Final

import msgspec

from perdure.errors import NotFound, StoreUnavailable
from perdure.lifecycle.doorbell import ThreadRef
from perdure.lifecycle.events import Event, Method, sse_frame
from perdure.lifecycle.ids import TaskId
from perdure.lifecycle.transitions import TERMINAL, Status
from perdure.store.base import TaskStore

PAGE: Final = 1_000
PAGE_BYTES: Final = 2 * 1024 * 1024
BACK_OFF_S: Final = 0.5
_LOG = logging.getLogger("perdure.gateway")


class _Change(msgspec.Struct):
    status: str | None = None


class _Params(msgspec.Struct):
    data: _Change


class _LifecycleBody(msgspec.Struct):
    params: _Params


_LIFECYCLE: Final = msgspec.json.Decoder(_LifecycleBody)


class Chunk:
    """Consecutive events of a thread, and what all its readers need of them, made once."""

    __slots__ = ("_frames", "events", "last_seq", "only_task", "size", "stops")

    def __init__(self, events: Sequence[Event]) -> None:
        self.events = events
        self.last_seq = events[-1].seq
        self.stops = stops_in(events)
        self.size = sum([len(event.body) for event in events])
        tasks = {event.task_id for event in events}
        self.only_task = tasks.pop() if len(tasks) == 1 else None
        self._frames: bytes | None = None

    def frames(self) -> bytes:
        """All events as one piece of Server-Sent Events text."""
        if self._frames is None:
            self._frames = b"".join(map(sse_frame, self.events))
        return self._frames


def stops_in(events: Sequence[Event]) -> dict[TaskId, int]:
    """Which tasks end or begin to wait for an answer with these events, and the seq where they last do."""
    found: dict[TaskId, int] = {}
    for event in events:
        if event.method == Method.LIFECYCLE and not event.namespace:
            status = status_of(event)
            if status in TERMINAL or status is Status.INTERRUPTED:
                found[event.task_id] = event.seq
    return found


def status_of(event: Event) -> Status | None:
    """The task's status that a root lifecycle event tells; None for what tells none."""
    try:
        word = _LIFECYCLE.decode(b"{" + event.body).params.data.status
        return Status(word) if word is not None else None
    except (msgspec.DecodeError, ValueError):
        return None


class _PageSize:
    """How many events to ask for at once, so that a page of large events stays near `PAGE_BYTES`."""

    def __init__(self) -> None:
        self.limit = PAGE

    def note(self, chunk: Chunk) -> None:
        average = chunk.size // len(chunk.events) or 1
        self.limit = min(PAGE, max(PAGE_BYTES // average, 1))


class Gap(msgspec.Struct, frozen=True):
    """What was asked for is not there any more; `first_available` is the oldest event that is."""

    requested: str
    first_available: int
    epoch: str


class Subscription:
    """One connection's place in a thread. Made by `EventHub.subscribe`.

    `cursor` is the seq of the last event that was handed out, or looked at and skipped by the caller's filter.
    """

    def __init__(self, reader: _Reader, after_seq: int, epoch: str | None, buffer_max: int) -> None:
        self.cursor = after_seq
        self.epoch = epoch
        self.overflows = 0
        self._reader = reader
        self._buffer_max = buffer_max
        self._buffer: deque[Chunk] = deque()
        self._buffered = 0
        self._live = False
        self._woken = asyncio.Event()
        self._pages = _PageSize()
        self._idle_replays = 0

    async def next(self, wait_s: float) -> Chunk | Gap | None:
        """What comes after the cursor; None after `wait_s` without anything, which is also how a lost store looks.

        Raises NotFound when the thread is gone and `Closed` when the hub closes.
        """
        self._fail_if_over()
        try:
            async with asyncio.timeout(wait_s):
                while True:
                    while not self._live:
                        replayed = await self._replay()
                        if replayed is not None:
                            return replayed
                    chunk = self.take()
                    if chunk is not None:
                        return chunk
                    await self._woken.wait()
                    self._fail_if_over()
        except TimeoutError:
            return None

    def offer(self, chunk: Chunk) -> None:
        """Called by the reader, in order."""
        if not self._live:
            return
        if self._buffered and self._buffered + chunk.size > self._buffer_max:
            self._drop()
            self.overflows += 1
            self._woken.set()
            return
        self._buffer.append(chunk)
        self._buffered += chunk.size
        self._woken.set()

    def restart(self) -> None:
        """Called by the reader when the log may have changed under it: look at the store again."""
        self._drop()
        self._woken.set()

    def wake(self) -> None:
        self._woken.set()

    def _fail_if_over(self) -> None:
        if self._reader.closed:
            raise Closed
        if self._reader.gone:
            raise NotFound(f"there is no thread {self._reader.thread.thread_id!r}")

    def _drop(self) -> None:
        self._live = False
        self._buffer.clear()
        self._buffered = 0

    def take(self) -> Chunk | None:
        """The next chunk if there is one already, without waiting."""
        while self._buffer:
            chunk = self._buffer.popleft()
            self._buffered -= chunk.size
            if chunk.last_seq <= self.cursor:
                continue
            if chunk.events[0].seq <= self.cursor:
                chunk = Chunk([event for event in chunk.events if event.seq > self.cursor])
            self.cursor = chunk.last_seq
            return chunk
        self._woken.clear()
        return None

    async def _replay(self) -> Chunk | Gap | None:
        """One page from the store. Goes live when the page reaches what the reader has read."""
        reader = self._reader
        try:
            page = await reader.store.events(reader.thread, self.cursor, self._pages.limit)
        except StoreUnavailable:
            await asyncio.sleep(BACK_OFF_S)
            return None
        first, last = page.first_seq, page.last_seq
        changed = self.epoch is not None and self.epoch != page.epoch
        if changed or (self.cursor > 0 and self.cursor + 1 < first) or self.cursor > last:
            requested = f"{self.epoch or page.epoch}:{self.cursor}"
            self.cursor, self.epoch = max(first - 1, 0), page.epoch
            return Gap(requested, first, page.epoch)
        self.epoch = page.epoch
        if page.events:
            chunk = Chunk(page.events)
            self._pages.note(chunk)
            self.cursor, self._idle_replays = chunk.last_seq, 0
            self._live = reader.ready and self.cursor >= reader.position
            return chunk
        self._live = reader.ready and self.cursor >= reader.position
        if not self._live:
            # The reader read on while the empty page travelled, or is not ready yet. Twice in a row is no race.
            await reader.wait_ready()
            self._idle_replays += 1
            if self._idle_replays > 1:
                await asyncio.sleep(BACK_OFF_S)
        return None


class Closed(Exception):
    """The hub closes; the client resumes elsewhere."""


class _Reader:
    """Follows one thread and hands what it reads to all its subscriptions."""

    def __init__(self, store: TaskStore, thread: ThreadRef) -> None:
        self.store, self.thread = store, thread
        self.position = 0
        self.epoch: str | None = None
        self.ready = self.gone = self.closed = False
        self.subscriptions: set[Subscription] = set()
        self.task: asyncio.Task[None] | None = None
        self._is_ready = asyncio.Event()
        self._pages = _PageSize()

    async def wait_ready(self) -> None:
        await self._is_ready.wait()

    async def run(self) -> None:
        while True:
            try:
                await self._follow()
            except NotFound:
                self._leave("gone")
                return
            except StoreUnavailable as error:
                _LOG.warning("stream of thread %s: the store is away: %s", self.thread.thread_id, error)
                await asyncio.sleep(BACK_OFF_S)

    def close(self) -> None:
        self._leave("closed")

    async def _follow(self) -> None:
        async with self.store.follow(self.thread) as feed:
            if not self.ready:
                now = await self.store.thread(self.thread)
                self.position, self.epoch, self.ready = now.last_seq, now.epoch, True
                self._is_ready.set()
            async for _ in feed:
                await self._read_on()

    async def _read_on(self) -> None:
        while True:
            limit = self._pages.limit
            page = await self.store.events(self.thread, self.position, limit)
            broken = page.epoch != self.epoch or page.last_seq < self.position or page.first_seq > self.position + 1
            if broken:
                self.epoch, self.position = page.epoch, page.last_seq
                for subscription in tuple(self.subscriptions):
                    subscription.restart()
                return
            if not page.events:
                return
            chunk = Chunk(page.events)
            self._pages.note(chunk)
            self.position = chunk.last_seq
            for subscription in tuple(self.subscriptions):
                subscription.offer(chunk)
            if len(page.events) < limit:
                return

    def _leave(self, why: str) -> None:
        if why == "gone":
            self.gone = True
        else:
            self.closed = True
        self._is_ready.set()
        for subscription in tuple(self.subscriptions):
            subscription.wake()


class EventHub:
    """All readers of one gateway process; it owns their asyncio tasks."""

    def __init__(self, store: TaskStore, buffer_max: int) -> None:
        self._store = store
        self._buffer_max = buffer_max
        self._readers: dict[ThreadRef, _Reader] = {}
        self._leaving: set[asyncio.Task[None]] = set()
        self.closed = False

    @property
    def threads(self) -> int:
        """How many threads are followed."""
        return len(self._readers)

    @contextlib.asynccontextmanager
    async def subscribe(
        self, thread: ThreadRef, after_seq: int, epoch: str | None = None
    ) -> AsyncIterator[Subscription]:
        """Read the thread's events after `after_seq`, then follow. `epoch` is that of the cursor, if it is known."""
        if self.closed:
            raise Closed
        reader = self._readers.get(thread)
        if reader is None:
            reader = self._readers[thread] = _Reader(self._store, thread)
            reader.task = asyncio.create_task(reader.run(), name=f"events of {thread.thread_id}")
        subscription = Subscription(reader, after_seq, epoch, self._buffer_max)
        reader.subscriptions.add(subscription)
        try:
            yield subscription
        finally:
            reader.subscriptions.discard(subscription)
            if not reader.subscriptions and self._readers.get(thread) is reader:
                del self._readers[thread]
                self._stop(reader)

    def close(self) -> None:
        """End all streams at once; those who wait get `Closed`. Safe to repeat."""
        self.closed = True
        for reader in tuple(self._readers.values()):
            reader.close()

    async def aclose(self) -> None:
        """`close`, and return when no reader is left."""
        self.close()
        for thread, reader in tuple(self._readers.items()):
            del self._readers[thread]
            self._stop(reader)
        await asyncio.gather(*self._leaving, return_exceptions=True)

    def _stop(self, reader: _Reader) -> None:
        task = reader.task
        assert task is not None
        task.cancel()
        if not task.done():
            self._leaving.add(task)
            task.add_done_callback(self._leaving.discard)
