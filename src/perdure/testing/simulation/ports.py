"""The store and the broker as a process sees them: the same verbs, over a wire that fails."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any, cast

from perdure.broker.base import Broker, Consumer, Delivery
from perdure.broker.memory import MemoryBroker
from perdure.errors import BrokerUnavailable
from perdure.lifecycle.doorbell import Doorbell, ThreadRef
from perdure.lifecycle.ids import TaskId, WorkerId
from perdure.lifecycle.task import Priority
from perdure.store.base import EventFeed, TaskStore
from perdure.store.wakeups import WakeUps
from perdure.testing.simulation.loop import VirtualLoop
from perdure.testing.simulation.process import Process
from perdure.testing.simulation.trace import Trace
from perdure.testing.simulation.weather import Chance
from perdure.testing.simulation.wire import Server, Wire
from perdure.testing.simulation.witness import Witness


class StoreServer(Server):
    """The store's machine: the memory store, the witness in front of it, and who listens."""

    def __init__(self, loop: VirtualLoop, away: Any, witness: Witness) -> None:
        super().__init__("store", loop, away)
        self.witness = witness
        self.feeds: set[WakeUps] = set()

    def start(self) -> None:
        super().start()
        # Who listened connects again, and looks for what it may have missed.
        for feed in sorted(self.feeds, key=id):
            feed.wake()


class RemoteStore:
    """A TaskStore for one process. Every verb is asked over the wire; `of` gives it its proper type."""

    def __init__(self, server: StoreServer, chance: Chance, trace: Trace, process: Process) -> None:
        self._server = server
        self._wire = Wire(server, chance)
        self._trace = trace
        self._process = process
        self.stored = "memory"

    @classmethod
    def of(cls, server: StoreServer, chance: Chance, trace: Trace, process: Process) -> TaskStore:
        return cast(TaskStore, cls(server, chance, trace, process))

    @property
    def wire(self) -> Wire:
        return self._wire

    def __getattr__(self, verb: str) -> Callable[..., Coroutine[Any, Any, Any]]:
        witness = self._server.witness
        act = getattr(witness, verb, None) or getattr(witness.store, verb)

        async def ask(*args: Any, **more: Any) -> Any:
            try:
                answer = await self._wire.ask(verb, lambda: act(*args, **more))
            except BaseException as error:
                why = "" if isinstance(error, asyncio.CancelledError) else f" {error}"
                self._trace.tell(self._process.name, f"{verb}: {type(error).__name__}{why}")
                raise
            if self._trace.kept and verb not in ("due", "events", "heartbeat", "get", "thread"):
                self._trace.tell(self._process.name, f"{verb} -> {_seen(answer)}")
            return answer

        setattr(self, verb, ask)
        return ask

    @contextlib.asynccontextmanager
    async def follow(self, thread: ThreadRef) -> AsyncIterator[EventFeed]:
        feed, chance, server = WakeUps(), self._wire.chance, self._server

        async def pump() -> None:
            async with server.witness.store.follow(thread) as bells:
                async for _ in bells:
                    if server.up:
                        server.process.call_later(chance.fate().back_s, feed.wake)

        pumping = server.process.start(pump(), f"feed of {thread.thread_id}")
        server.feeds.add(feed)
        try:
            yield feed
        finally:
            server.feeds.discard(feed)
            pumping.cancel()

    @contextlib.asynccontextmanager
    async def orders(self, worker: WorkerId) -> AsyncIterator[AsyncIterator[TaskId]]:
        heard: asyncio.Queue[TaskId] = asyncio.Queue()
        chance, server = self._wire.chance, self._server

        async def pump() -> None:
            async with server.witness.store.orders(worker) as orders:
                async for task_id in orders:
                    fate = chance.fate()
                    if server.up and not fate.lost_reply:
                        server.process.call_later(fate.back_s, heard.put_nowait, task_id)

        async def told() -> AsyncIterator[TaskId]:
            while True:
                yield await heard.get()

        pumping = server.process.start(pump(), f"orders of {worker}")
        try:
            yield told()
        finally:
            pumping.cancel()


class RemoteBroker(Broker):
    """The memory broker for one process. Rings get lost, doubled and overtaken on their way, and some ring for a task
    that nobody meant; what a dead listener had taken is rung again, or lost with it."""

    def __init__(
        self, broker: MemoryBroker, server: Server, chance: Chance, process: Process, witness: Witness
    ) -> None:
        self._witness = witness
        self._broker = broker
        self._server = server
        self._wire = Wire(server, chance)
        self._process = process

    async def publish(self, doorbells: Sequence[Doorbell]) -> None:
        chance, weather = self._wire.chance, self._wire.chance.weather

        async def take() -> None:
            for bell in doorbells:
                if chance.strikes(weather.bell_lost):
                    continue
                if chance.strikes(weather.bell_stray):
                    stray = Doorbell(self._witness.anybody(chance.random), bell.tier, bell.priority)
                    self._server.process.call_later(chance.random.random(), self._put, stray)
                for _ in range(2 if chance.strikes(weather.bell_doubled) else 1):
                    self._server.process.call_later(chance.fate().there_s, self._put, bell)

        await self._wire.ask("publish", take)

    def _put(self, bell: Doorbell) -> None:
        self._server.process.start(self._broker.publish([bell]), "ring")

    @contextlib.asynccontextmanager
    async def consume(
        self, tier: str, consumer: str, classes: Sequence[Priority] = tuple(Priority)
    ) -> AsyncIterator[Consumer]:
        session = _Session(self, tier, consumer, classes)
        sitting = self._server.process.start(session.serve(), f"ear {consumer}")
        watching = self._server.process.start(self._watch(sitting), f"connection of {consumer}")
        try:
            yield session
        finally:
            watching.cancel()
            sitting.cancel()

    async def _watch(self, sitting: asyncio.Task[None]) -> None:
        """The connection of a process that died breaks; one that stands still is kept."""
        await self._process.wait_ended()
        chance = self._wire.chance
        await asyncio.sleep(chance.random.random())
        if not chance.strikes(chance.weather.bell_lost):
            sitting.cancel()

    async def depth(self, tier: str) -> int:
        return await self._wire.ask("depth", lambda: self._broker.depth(tier))

    async def aclose(self) -> None:
        return None


class _Session(Consumer):
    """One listener's place at the broker. `serve` runs at the broker's side."""

    def __init__(self, broker: RemoteBroker, tier: str, consumer: str, classes: Sequence[Priority]) -> None:
        self._broker = broker
        self._tier, self._consumer, self._classes = tier, consumer, classes
        self._asked: asyncio.Queue[tuple[int, asyncio.Future[Sequence[Delivery]]]] = asyncio.Queue()

    async def serve(self) -> None:
        server, chance = self._broker._server, self._broker._wire.chance
        async with self._broker._broker.consume(self._tier, self._consumer, self._classes) as ear:
            while True:
                free, answer = await self._asked.get()
                deliveries = await ear.receive(free)
                if answer.done():
                    for delivery in deliveries:
                        await delivery.release()
                    continue
                remote = [_RemoteDelivery(self._broker, delivery) for delivery in deliveries]
                server.process.call_later(chance.fate().back_s, _deliver, server, answer, remote)

    async def receive(self, free: int) -> Sequence[Delivery]:
        server = self._broker._server
        if not server.up:
            raise BrokerUnavailable("the broker is away")
        answer: asyncio.Future[Sequence[Delivery]] = asyncio.get_running_loop().create_future()
        self._asked.put_nowait((free, answer))
        return await answer


class _RemoteDelivery(Delivery):
    def __init__(self, broker: RemoteBroker, delivery: Delivery) -> None:
        self._wire = broker._wire
        self._delivery = delivery
        self.doorbell = delivery.doorbell

    async def ack(self) -> None:
        await self._wire.ask("ack", self._delivery.ack)

    async def release(self) -> None:
        await self._wire.ask("release", self._delivery.release)


def _deliver(server: Server, answer: asyncio.Future[Sequence[Delivery]], deliveries: Sequence[Delivery]) -> None:
    if not answer.done():
        answer.set_result(deliveries)
        return
    for delivery in deliveries:
        server.process.start(delivery.release(), "release")


def _seen(answer: Any) -> str:
    text = repr(answer)
    return text if len(text) < 160 else text[:157] + "..."
