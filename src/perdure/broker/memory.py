"""The broker in one process's memory: for simulations and tests."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Sequence

from perdure.broker.base import Broker, Consumer, Delivery
from perdure.errors import BrokerUnavailable
from perdure.lifecycle.doorbell import Doorbell
from perdure.lifecycle.task import Priority


class MemoryBroker(Broker):
    """Queues in dictionaries. `away` makes every verb raise BrokerUnavailable, as if the broker were gone."""

    def __init__(self) -> None:
        self.away = False
        self._queues: dict[tuple[str, Priority], deque[Doorbell]] = defaultdict(deque)
        self._rung: dict[str, asyncio.Condition] = defaultdict(asyncio.Condition)

    async def publish(self, doorbells: Sequence[Doorbell]) -> None:
        self._require_here()
        for bell in doorbells:
            self._queues[bell.tier, bell.priority].append(bell)
        for tier in {bell.tier for bell in doorbells}:
            async with self._rung[tier]:
                self._rung[tier].notify_all()

    @contextlib.asynccontextmanager
    async def consume(
        self, tier: str, consumer: str, classes: Sequence[Priority] = tuple(Priority)
    ) -> AsyncIterator[Consumer]:
        ear = _Consumer(self, tier, classes)
        try:
            yield ear
        finally:
            for delivery in list(ear.held):
                await delivery.release()

    async def depth(self, tier: str) -> int:
        return sum(len(queue) for (name, _), queue in self._queues.items() if name == tier)

    async def aclose(self) -> None:
        return None

    def _require_here(self) -> None:
        if self.away:
            raise BrokerUnavailable("the memory broker was told to be away")


class _Consumer(Consumer):
    def __init__(self, broker: MemoryBroker, tier: str, classes: Sequence[Priority]) -> None:
        self._broker = broker
        self._tier = tier
        self._classes = [priority for priority in Priority if priority in classes]
        self.held: set[_Delivery] = set()

    async def receive(self, free: int) -> Sequence[Delivery]:
        rung = self._broker._rung[self._tier]
        async with rung:
            while True:
                self._broker._require_here()
                taken = self._take(free)
                if taken:
                    return taken
                await rung.wait()

    def _take(self, free: int) -> list[_Delivery]:
        taken: list[_Delivery] = []
        for priority in self._classes:
            queue = self._broker._queues[self._tier, priority]
            while queue and len(taken) < free:
                taken.append(_Delivery(self._broker, self, queue.popleft()))
        self.held.update(taken)
        return taken


class _Delivery(Delivery):
    def __init__(self, broker: MemoryBroker, consumer: _Consumer, doorbell: Doorbell) -> None:
        self._broker = broker
        self._consumer = consumer
        self.doorbell = doorbell

    async def ack(self) -> None:
        self._consumer.held.discard(self)

    async def release(self) -> None:
        if self in self._consumer.held:
            self._consumer.held.discard(self)
            self._broker._queues[self.doorbell.tier, self.doorbell.priority].appendleft(self.doorbell)
            async with self._broker._rung[self.doorbell.tier]:
                self._broker._rung[self.doorbell.tier].notify_all()
