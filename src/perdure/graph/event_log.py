"""Collects one attempt's events and brings them to the store in order, in batches, under the task's lease."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from types import TracebackType
from typing import Final, Self

import orjson

from perdure.clock import Clock
from perdure.errors import StoreUnavailable
from perdure.graph import plain
from perdure.graph.tags import Delta, Tagged
from perdure.lifecycle.events import NewEvent, agent_of, path_of
from perdure.lifecycle.lease import Lease
from perdure.store.base import TaskStore

# How long an event may wait for company. Also the longest that a reader waits for the joined pieces of a text.
GATHER_S: Final = 0.02
BATCH_MAX: Final = 1_000
BATCH_BYTES_MAX: Final = 1024 * 1024
EVENTS_MAX: Final = 10_000
BYTES_MAX: Final = 16 * 1024 * 1024
_RETRY_FIRST_S: Final = 0.05
_RETRY_MAX_S: Final = 1.0
# Namespaces hold fresh ids for every step, so what is remembered about them must not grow with the task.
_SPEAKERS_MAX: Final = 1_024


class BodyEncoder:
    """`lifecycle.events.encode_body` with all that stays the same in an attempt encoded once.

    Its output is byte for byte that of `encode_body`; it takes values that are not JSON-ready as well.
    """

    def __init__(self, lease: Lease, attempt: int) -> None:
        ids = orjson.dumps(lease.task_id)
        self._ids = b',"task_id":%s,"run_id":%s,"step":' % (ids, ids)
        self._end = b',"attempt":%d,"worker":%s,"data":' % (attempt, orjson.dumps(lease.worker))
        self._speakers: dict[tuple[str, str, tuple[str, ...], str | None], tuple[bytes, bytes]] = {}

    def body(self, event: Tagged, timestamp_ms: int, step: int) -> bytes:
        """The bytes of everything after the number."""
        key = event[:4]
        known = self._speakers.get(key)
        if known is None:
            known = self._speaker(event)
        head, who = known
        data = event.data
        if type(data) is Delta:
            data = data.json()
        return b"%s%d%s%d%s%s}}" % (head, timestamp_ms, who, step, self._end, plain.encode(data))

    def _speaker(self, event: Tagged) -> tuple[bytes, bytes]:
        if len(self._speakers) >= _SPEAKERS_MAX:
            self._speakers.clear()
        method, tag, namespace, node, _ = event
        head = b'"method":%s,"params":{"namespace":%s,"timestamp":' % (
            orjson.dumps(method),
            plain.encode(list(namespace)),
        )
        who = b',"tag":%s,"path":%s,"node":%s,"agent":%s%s' % (
            orjson.dumps(tag),
            plain.encode(path_of(namespace, node)),
            plain.encode(node),
            plain.encode(agent_of(namespace)),
            self._ids,
        )
        known = self._speakers[method, tag, namespace, node] = (head, who)
        return known


class EventLog:
    """The way of an attempt's events into the store. Use it as an async context manager, from one event loop.

    `put` never waits. While the store is away nothing is dropped: sending is tried again until the log is left, and
    `room` holds the speaker back. After a lost lease every method raises LeaseLost. An append whose answer got lost
    is sent again, and the store, which knows the events by their place, stores each once.
    Leaving the context stops sending at once; what was not flushed or taken is gone.
    """

    def __init__(self, store: TaskStore, lease: Lease, clock: Clock, attempt: int) -> None:
        self._store = store
        self._lease = lease
        self._clock = clock
        self._encoder = BodyEncoder(lease, attempt)
        self._ready: deque[NewEvent] = deque()
        self._bytes = 0
        self._stored = 0
        # The newest piece of text stays open until something else is said, so that the next piece can join it.
        self._tail: tuple[Tagged, int, int] | None = None
        self._pieces: list[str] = []
        self._broken: BaseException | None = None
        self._sending = asyncio.Lock()
        self._wanted = asyncio.Event()
        self._room = asyncio.Event()
        self._sender: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._sender = asyncio.create_task(self._send_forever(), name=f"events {self._lease.task_id}")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._sender is not None:
            self._sender.cancel()
            await asyncio.wait({self._sender})
            self._sender = None

    @property
    def full(self) -> bool:
        """More is waiting than should: await `room` before saying more."""
        return len(self._ready) >= EVENTS_MAX or self._bytes >= BYTES_MAX

    def put(self, event: Tagged, step: int) -> None:
        """Say something. Cheap; raises only when the lease is lost or the store refused for good."""
        if self._broken is not None:
            raise self._broken
        data = event.data
        if type(data) is Delta:
            tail = self._tail
            if (
                tail is not None
                and type(before := tail[0].data) is Delta
                and before[:3] == data[:3]
                and tail[0].namespace == event.namespace
            ):
                self._pieces.append(data.text)
                return
            self._seal()
            self._tail = (event, step, self._clock.now_ms())
            self._pieces = [data.text]
        else:
            if self._tail is not None:
                self._seal()
            self._add(event, step, self._clock.now_ms())
        if not self._wanted.is_set():
            self._wanted.set()

    async def room(self) -> None:
        """Return when there is room for more events."""
        while self.full:
            if self._broken is not None:
                raise self._broken
            self._room.clear()
            await self._room.wait()

    async def flush(self) -> None:
        """Return when everything that was put before is in the store."""
        await self._send()

    async def take(self) -> tuple[NewEvent, ...]:
        """Everything that is not in the store yet, for the verb that ends the attempt."""
        async with self._sending:
            if self._broken is not None:
                raise self._broken
            self._seal()
            events = tuple(self._ready)
            self._ready.clear()
            self._bytes = 0
            return events

    def _seal(self) -> None:
        if self._tail is None:
            return
        event, step, timestamp_ms = self._tail
        delta = event.data
        assert isinstance(delta, Delta)
        if len(self._pieces) > 1:
            event = event._replace(data=delta._replace(text="".join(self._pieces)))
        self._tail = None
        self._add(event, step, timestamp_ms)

    def _add(self, event: Tagged, step: int, timestamp_ms: int) -> None:
        body = self._encoder.body(event, timestamp_ms, step)
        self._bytes += len(body)
        namespace = event.namespace
        self._ready.append(NewEvent(event.method, event.tag, "|".join(namespace) if namespace else "", body))

    async def _send_forever(self) -> None:
        while self._broken is None:
            await self._wanted.wait()
            if not self.full:
                await asyncio.sleep(GATHER_S)
            self._wanted.clear()
            # The error is kept, and every method of the log raises it from now on; this task has nobody to tell it to.
            with contextlib.suppress(Exception):
                await self._send()

    async def _send(self) -> None:
        wait_s = _RETRY_FIRST_S
        async with self._sending:
            self._seal()
            left = len(self._ready)
            while left > 0:
                if self._broken is not None:
                    raise self._broken
                batch = self._batch(left)
                try:
                    await self._store.append(self._lease, batch, self._stored + 1)
                except StoreUnavailable:
                    await asyncio.sleep(wait_s)
                    wait_s = min(wait_s * 2, _RETRY_MAX_S)
                    continue
                except Exception as error:
                    self._broken = error
                    self._room.set()
                    raise
                self._stored += len(batch)
                for sent in batch:
                    self._ready.popleft()
                    self._bytes -= len(sent.body)
                left -= len(batch)
                if not self.full:
                    self._room.set()
        if self._broken is not None:
            raise self._broken

    def _batch(self, limit: int) -> list[NewEvent]:
        batch: list[NewEvent] = []
        size = 0
        for event in self._ready:
            if len(batch) == min(limit, BATCH_MAX) or (batch and size + len(event.body) > BATCH_BYTES_MAX):
                break
            batch.append(event)
            size += len(event.body)
        return batch
