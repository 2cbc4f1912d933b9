"""The event log: the bytes it makes, what it joins, and how it gets on with a store that is away or refuses."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import orjson
import pytest

from perdure.clock import SystemClock
from perdure.errors import LeaseLost, StoreUnavailable
from perdure.graph.event_log import BATCH_MAX, EVENTS_MAX, BodyEncoder, EventLog
from perdure.graph.tags import Delta, Tagged
from perdure.lifecycle.events import NewEvent, encode_body
from perdure.lifecycle.ids import DEFAULT_TENANT, TaskId, ThreadId, Token, WorkerId
from perdure.lifecycle.lease import Lease

pytestmark = pytest.mark.anyio

LEASE = Lease(DEFAULT_TENANT, ThreadId("t"), TaskId("task-é"), Token(1), "nonce", WorkerId("w-a"), 10_000)


class Sink:
    """The one verb of a store that the log uses; it can be away, refuse, or hold its answer back."""

    def __init__(self) -> None:
        self.batches: list[Sequence[NewEvent]] = []
        self.places: list[tuple[int, int]] = []
        self.away = 0
        self.error: Exception | None = None
        self.gate: asyncio.Event | None = None
        self.asked = asyncio.Event()

    @property
    def data(self) -> list[Any]:
        return [orjson.loads(b"{" + e.body)["params"]["data"] for batch in self.batches for e in batch]

    async def append(self, lease: Lease, events: Sequence[NewEvent], first: int = 0) -> int:
        self.places.append((first, len(events)))
        self.asked.set()
        if self.gate is not None:
            await self.gate.wait()
        if self.away:
            self.away -= 1
            raise StoreUnavailable("away")
        if self.error is not None:
            raise self.error
        self.batches.append(list(events))
        return 0


def log_to(sink: Sink) -> EventLog:
    return EventLog(sink, LEASE, SystemClock(), attempt=2)  # type: ignore[arg-type]


def custom(n: Any) -> Tagged:
    return Tagged("custom", "NODE", (), None, {"n": n})


def text(piece: str, *, message: str = "m", block: int = 0, kind: str = "text") -> Tagged:
    return Tagged("messages", "ANSWER", (), "speak", Delta(message, block, kind, piece))


@pytest.mark.parametrize("namespace", [(), ("reflect:b9da", "critic:1")])
@pytest.mark.parametrize("node", [None, 'odd "node" é'])
def test_the_fast_encoder_makes_the_very_bytes_of_encode_body(namespace: tuple[str, ...], node: str | None) -> None:
    encoder = BodyEncoder(LEASE, attempt=2)
    data = {"text": 'say "é"\n', "n": 1.5, "list": [None, True], "nested": {"a": {}}}
    for tag in ("THOUGHT", "NODE", "THOUGHT"):
        expected = encode_body(
            method="custom",
            tag=tag,
            namespace=namespace,
            timestamp_ms=1795373359303,
            task_id=LEASE.task_id,
            step=3,
            attempt=2,
            worker="w-a",
            data=data,
            node=node,
        )
        assert encoder.body(Tagged("custom", tag, namespace, node, data), 1795373359303, 3) == expected


async def test_flush_returns_when_all_that_was_put_is_stored_in_order() -> None:
    sink = Sink()
    async with log_to(sink) as log:
        for n in range(2_500):
            log.put(custom(n), 1)
        await log.flush()
        assert [d["n"] for d in sink.data] == list(range(2_500))
        assert max(len(batch) for batch in sink.batches) == BATCH_MAX


async def test_events_are_stored_without_being_flushed() -> None:
    sink = Sink()
    async with log_to(sink) as log:
        log.put(custom(1), 1)
        await asyncio.wait_for(sink.asked.wait(), 5)
    assert [d["n"] for d in sink.data] == [1]


async def test_pieces_of_one_block_are_joined_and_others_are_not() -> None:
    sink = Sink()
    async with log_to(sink) as log:
        for event in (text("a"), text("b"), text("c", block=1), text("d", message="n"), text("e", message="n")):
            log.put(event, 1)
        log.put(custom(1), 1)
        log.put(text("f", message="n"), 1)
        await log.flush()
        log.put(text("g", message="n"), 1)
        await log.flush()
    said = [d["delta"]["text"] if "delta" in d else d["n"] for d in sink.data]
    assert said == ["ab", "c", "de", 1, "f", "g"]


async def test_a_store_that_is_away_loses_nothing() -> None:
    sink = Sink()
    sink.away = 3
    async with log_to(sink) as log:
        log.put(custom(1), 1)
        log.put(custom(2), 1)
        await log.flush()
    assert [d["n"] for d in sink.data] == [1, 2]


async def test_a_full_log_holds_the_speaker_back_until_the_store_takes_some() -> None:
    sink = Sink()
    sink.gate = asyncio.Event()
    async with log_to(sink) as log:
        for n in range(EVENTS_MAX):
            log.put(custom(n), 1)
        assert log.full
        waiting = asyncio.create_task(log.room())
        await sink.asked.wait()
        assert not waiting.done()
        sink.gate.set()
        await asyncio.wait_for(waiting, 5)
        assert not log.full


async def test_what_is_sent_again_says_its_place_again() -> None:
    sink = Sink()
    async with log_to(sink) as log:
        log.put(custom(1), 1)
        await log.flush()
        sink.away = 1
        log.put(custom(2), 1)
        log.put(custom(3), 1)
        await log.flush()
    assert sink.places == [(1, 1), (2, 2), (2, 2)]


async def test_a_lost_lease_reaches_every_caller() -> None:
    sink = Sink()
    sink.error = LeaseLost("superseded")
    async with log_to(sink) as log:
        log.put(custom(1), 1)
        with pytest.raises(LeaseLost):
            await log.flush()
        with pytest.raises(LeaseLost):
            log.put(custom(2), 1)
        with pytest.raises(LeaseLost):
            await log.take()


async def test_take_gives_what_is_not_stored_yet_and_leaves_nothing() -> None:
    sink = Sink()
    async with log_to(sink) as log:
        log.put(text("a"), 1)
        log.put(custom(1), 1)
        taken = await log.take()
        assert [event.method for event in taken] == ["messages", "custom"]
        assert await log.take() == ()
    assert sink.batches == []


async def test_putting_an_event_costs_microseconds() -> None:
    """The bound is ten times what is measured on two slow cores, so that only a change of kind breaks it."""
    sink = Sink()
    async with log_to(sink) as log:
        event = Tagged("custom", "NODE", (), "n", {"i": 1, "text": "some words"})
        best = min(_cost_us(log, event) for _ in range(5))
    assert best < 50


def _cost_us(log: EventLog, event: Tagged) -> float:
    began = time.perf_counter()
    for _ in range(1_000):
        log.put(event, 1)
    return (time.perf_counter() - began) * 1_000
