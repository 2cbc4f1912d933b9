"""The event routes: a task's or a thread's events as a resumable stream, as text for people, or as a page."""

from __future__ import annotations

import asyncio
import logging
import re
from typing import Any, Final

import anyio
import msgspec
import orjson
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from perdure.errors import InvalidRequest, NotFound, PerdureError, StoreUnavailable
from perdure.gateway.calls import Call, Operation, limit_of
from perdure.gateway.filters import EventFilter
from perdure.gateway.hub import Chunk, Closed, Gap, Subscription
from perdure.gateway.media import preferred
from perdure.gateway.services import Services
from perdure.gateway.state import snapshot
from perdure.gateway.transcript import Transcript
from perdure.gateway.wire import EventList
from perdure.lifecycle.doorbell import TaskRef, ThreadRef
from perdure.lifecycle.events import Event, end_frame, sse_frame
from perdure.lifecycle.transitions import TERMINAL, Status

# The first is what a client gets that does not say what it reads.
FORMS: Final = ("text/event-stream", "application/json", "text/plain")
RETRY: Final = b"retry: 1000\n\n"
WRITE_BYTES: Final = 256 * 1024
SCAN_PAGES: Final = 20
PAGE_MAX: Final = 1_000
_CURSOR: Final = re.compile(r"(?:([A-Za-z0-9]{1,32}):)?(-1|\d{1,15})\Z")
_FILTERS: Final = ("tags", "channels", "namespaces", "since", "limit")
_LOG = logging.getLogger("perdure.gateway")


class Cursor(msgspec.Struct, frozen=True):
    """The last event a client has seen. `epoch` is None for a bare number; seq 0 means before everything."""

    epoch: str | None
    seq: int

    @classmethod
    def parse(cls, text: str, name: str) -> Cursor:
        found = _CURSOR.match(text.strip())
        if found is None:
            raise InvalidRequest((f"/{name}", "a cursor is an event's number or id, such as 4217 or k3f9:4217"))
        return cls(found[1], max(int(found[2]), 0))


def operations() -> list[Operation]:
    return [
        Operation(
            "GET",
            "/v1/tasks/{task_id}/events",
            task_events,
            "Follow a task: Server-Sent Events, text with `Accept: text/plain`, a page with `Accept: application/json`",
            answer=EventList,
            media_type="text/event-stream",
            query=_FILTERS,
            headers=("Last-Event-ID",),
            also={204: None},
            limit_max=PAGE_MAX,
        ),
        Operation(
            "GET",
            "/v1/threads/{thread_id}/events",
            thread_events,
            "Follow a thread over all its tasks, from its tail unless `since` says otherwise",
            answer=EventList,
            media_type="text/event-stream",
            query=_FILTERS,
            headers=("Last-Event-ID",),
            limit_max=PAGE_MAX,
        ),
    ]


async def task_events(call: Call) -> Response | ASGIApp:
    """A task's events from its first one; ends after its terminal event."""
    ref = await call.task()
    task = await call.services.store.get(ref)
    call.query(*_FILTERS)
    asked = _cursor(call)
    wanted = EventFilter.from_query(call.request.query_params, ref.task_id)
    start = asked or Cursor(None, max(task.first_seq - 1, 0))
    if _form(call) == "application/json":
        return await _page(call, ref.thread, start, wanted)
    if asked is not None and task.status in TERMINAL and asked.seq >= task.last_seq:
        thread = await call.services.store.thread(ref.thread)
        if asked.epoch in (None, thread.epoch) and asked.seq <= thread.last_seq:
            return Response(status_code=204)
    return _stream(call, ref.thread, start, wanted, ref)


async def thread_events(call: Call) -> Response | ASGIApp:
    """A thread's events from its tail; stays open while the thread is idle."""
    thread = await call.services.store.thread(call.thread)
    call.query(*_FILTERS)
    start = _cursor(call)
    wanted = EventFilter.from_query(call.request.query_params, None)
    if _form(call) == "application/json":
        return await _page(call, call.thread, start or Cursor(None, 0), wanted)
    return _stream(call, call.thread, start or Cursor(thread.epoch, thread.last_seq), wanted, None)


def _stream(call: Call, thread: ThreadRef, start: Cursor, wanted: EventFilter, task: TaskRef | None) -> EventStream:
    if call.services.hub.closed:
        raise Closed
    return EventStream(call, thread, start, wanted, task)


def _form(call: Call) -> str:
    """Which of `FORMS` the client would rather read."""
    return preferred(",".join(call.request.headers.getlist("accept")), FORMS)


def _cursor(call: Call) -> Cursor | None:
    since = call.request.query_params.get("since")
    if since is not None:
        return Cursor.parse(since, "since")
    last = call.request.headers.get("last-event-id")
    return Cursor.parse(last, "Last-Event-ID") if last else None


async def _page(call: Call, thread: ThreadRef, start: Cursor, wanted: EventFilter) -> Response:
    """Up to `limit` matching events; looks through a bounded number of the store's pages for them."""
    limit = limit_of(dict(call.request.query_params), default=100, most=PAGE_MAX)
    found: list[bytes] = []
    seq = start.seq
    for _ in range(SCAN_PAGES):
        page = await call.services.store.events(thread, seq, limit)
        if start.epoch not in (None, page.epoch):
            start, seq = Cursor(None, 0), 0
            continue
        for event in page.events:
            if wanted.passes(event):
                found.append(event.json())
            seq = event.seq
            if len(found) == limit:
                break
        if len(found) == limit or seq >= page.last_seq or not page.events:
            break
    epoch = page.epoch
    tail = {"epoch": epoch, "first_seq": page.first_seq, "last_seq": page.last_seq, "next_since": f"{epoch}:{seq}"}
    body = b'{"events":[' + b",".join(found) + b"]," + orjson.dumps(tail)[1:]
    return Response(body, media_type="application/json", headers={"Cache-Control": "no-store"})


class _Over(Exception):
    """Nothing more will come."""


class _Stalled(Exception):
    """The client takes nothing any more."""


class EventStream:
    """One open connection: an ASGI answer that ends with the task, with the client, or with the gateway."""

    def __init__(self, call: Call, thread: ThreadRef, start: Cursor, wanted: EventFilter, task: TaskRef | None) -> None:
        self._services: Services = call.services
        self._thread, self._start, self._wanted, self._task = thread, start, wanted, task
        self._text = Transcript() if _form(call) == "text/plain" else None
        self._send: Send

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._send = send
        kind = b"text/event-stream; charset=utf-8" if self._text is None else b"text/plain; charset=utf-8"
        headers = [
            (b"content-type", kind),
            (b"cache-control", b"no-store, no-transform"),
            (b"x-accel-buffering", b"no"),
            (b"x-content-type-options", b"nosniff"),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        if scope["method"] == "HEAD":
            await send({"type": "http.response.body", "body": b""})
            return
        metrics = self._services.metrics
        metrics.streams.add()
        stalled = False  # And so it stays when the client leaves, which cancels the group.
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._watch, receive, group.cancel_scope)
                stalled = await self._run()
                group.cancel_scope.cancel()
            if stalled:
                metrics.stalled.add()
                _abort(send)
        finally:
            metrics.streams.add(amount=-1)

    async def _watch(self, receive: Receive, scope: anyio.CancelScope) -> None:
        """A client that leaves ends its stream at once."""
        while (await receive())["type"] != "http.disconnect":
            pass
        scope.cancel()

    async def _run(self) -> bool:
        """Send until the end. True if the client stood still."""
        try:
            await self._write(RETRY if self._text is None else b"")
            async with self._services.hub.subscribe(self._thread, self._start.seq, self._start.epoch) as place:
                await self._follow(place)
        except (_Over, Closed):
            pass
        except NotFound:
            # The thread was deleted while it was followed: there is nothing to come, and nothing to end with.
            pass
        except _Stalled:
            return True
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})
        return False

    async def _follow(self, place: Subscription) -> None:
        loop = asyncio.get_running_loop()
        every = self._services.settings.heartbeat_s
        quiet_since = loop.time()
        overflows = 0
        while True:
            item = await place.next(max(quiet_since + every - loop.time(), 0.001))
            if isinstance(item, Gap):
                await self._write(await self._gap(item))
                await self._end_if_over(item.first_available)
                quiet_since = loop.time()
                continue
            sent = False
            while item is not None:
                piece = self._encode(item)
                if piece:
                    await self._write(piece)
                    sent = True
                if self._task is not None and (seq := item.stops.get(self._task.task_id)) is not None:
                    await self._end_if_over(seq)
                item = place.take()
            if place.overflows != overflows:
                self._services.metrics.replays.add(amount=place.overflows - overflows)
                overflows = place.overflows
            if sent:
                quiet_since = loop.time()
            elif loop.time() - quiet_since >= every:
                await self._write(self._heartbeat(place))
                quiet_since = loop.time()

    def _encode(self, chunk: Chunk) -> bytes:
        wanted = self._wanted
        if wanted.only_task and wanted.task_id in (None, chunk.only_task):
            return chunk.frames() if self._text is None else self._text.text(chunk.events)
        events: list[Event] = [event for event in chunk.events if wanted.passes(event)]
        if self._text is not None:
            return self._text.text(events)
        return b"".join(map(sse_frame, events))

    def _heartbeat(self, place: Subscription) -> bytes:
        """A comment with the newest id: a frame without data moves a client's cursor and shows it nothing."""
        if self._text is not None:
            return self._text.pause()
        if place.epoch is None:
            return b":hb\n\n"
        return b"id: %s:%d\n:hb\n\n" % (place.epoch.encode(), place.cursor)

    async def _gap(self, gap: Gap) -> bytes:
        """What a reader gets whose place is gone: that it is, the state as it stands, then all that is kept."""
        if self._text is not None:
            return self._text.note(
                "GAP", f"asked after {gap.requested}, the oldest event kept is #{gap.first_available}"
            )
        event_id = f"{gap.epoch}:{gap.first_available - 1}"
        now = self._services.clock.now_ms()
        told = {"requested": gap.requested, "first_available": gap.first_available, "epoch": gap.epoch}
        frames = _unnumbered(event_id, "gap", {"namespace": [], "timestamp": now, "data": told})
        try:
            values = await snapshot(self._services, self._thread)
        except PerdureError as error:
            _LOG.warning("no snapshot for thread %s: %s", self._thread.thread_id, error)
            return frames
        if values is not None:
            params = {"namespace": [], "timestamp": now, "snapshot": True, "data": orjson.Fragment(values)}
            frames += _unnumbered(event_id, "values", params)
        return frames

    async def _end_if_over(self, seq: int) -> None:
        """End the stream if the task ended at `seq` or before; a task that was requeued since goes on."""
        if self._task is None:
            return
        while True:
            try:
                task = await self._services.store.get(self._task)
                break
            except NotFound:
                raise _Over from None
            except StoreUnavailable:
                await asyncio.sleep(self._services.settings.retry_after_s)
        if task.status in TERMINAL and task.last_seq <= seq:
            await self._write(self._end(task.status))
            raise _Over

    def _end(self, status: Status) -> bytes:
        assert self._task is not None
        return end_frame(self._task.task_id, status) if self._text is None else self._text.close(status)

    async def _write(self, piece: bytes) -> None:
        """Send in pieces that the socket's buffer can take, each within the time that a reader may stand still."""
        for start in range(0, len(piece) or 1, WRITE_BYTES):
            part = piece[start : start + WRITE_BYTES] if len(piece) > WRITE_BYTES else piece
            try:
                async with asyncio.timeout(self._services.settings.stall_s):
                    await self._send({"type": "http.response.body", "body": part, "more_body": True})
            except TimeoutError:
                raise _Stalled from None
        self._services.metrics.sent.add(amount=len(piece))


def _unnumbered(event_id: str, method: str, params: dict[str, Any]) -> bytes:
    """A frame that is not part of the log; its id moves the cursor to where the log goes on."""
    data = orjson.dumps({"type": "event", "method": method, "params": params})
    return b"id: %s\nevent: %s\ndata: %s\n\n" % (event_id.encode(), method.encode(), data)


def _abort(send: Send) -> None:
    """Cut the connection of a reader that stands still. Closing it in good manners would wait for that reader, and
    ASGI has no word for cutting; uvicorn's `send` is a method of the object that holds the transport."""
    bound = getattr(send, "inner", send)
    transport = getattr(getattr(bound, "__self__", None), "transport", None)
    if transport is not None:
        transport.abort()
