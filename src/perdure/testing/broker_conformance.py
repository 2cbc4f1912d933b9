"""What every broker must do. Subclass `BrokerConformance` and give it a `broker` fixture (tests run under AnyIO)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from perdure.broker.base import Broker, Consumer, Delivery
from perdure.lifecycle.doorbell import Doorbell
from perdure.lifecycle.task import Priority
from perdure.testing.samples import make_spec, ref_of


def bell(tier: str, priority: Priority = Priority.NORMAL) -> Doorbell:
    """A doorbell for a task of its own."""
    return Doorbell(ref_of(make_spec()), tier, priority)


async def hear(consumer: Consumer, count: int, free: int = 100) -> list[Delivery]:
    """Receive and ack until `count` rings were heard."""
    heard: list[Delivery] = []
    async with asyncio.timeout(60):
        while len(heard) < count:
            for delivery in await consumer.receive(free):
                await delivery.ack()
                heard.append(delivery)
    return heard


def bells(deliveries: Sequence[Delivery]) -> list[Doorbell]:
    return [delivery.doorbell for delivery in deliveries]


@pytest.mark.anyio
class BrokerConformance:
    """Give `tier` as a fixture too: a name that no other test uses."""

    async def test_what_is_rung_is_heard_in_order(self, broker: Broker, tier: str) -> None:
        rung = [bell(tier) for _ in range(20)]
        await broker.publish(rung)
        async with broker.consume(tier, "a") as consumer:
            assert bells(await hear(consumer, 20)) == rung
        assert await broker.depth(tier) == 0

    async def test_a_waiting_consumer_is_woken(self, broker: Broker, tier: str) -> None:
        async with broker.consume(tier, "a") as consumer:
            waiting = asyncio.create_task(hear(consumer, 1))
            await asyncio.sleep(0)
            one = bell(tier)
            await broker.publish([one])
            assert bells(await waiting) == [one]

    async def test_no_more_is_received_than_there_is_room_for(self, broker: Broker, tier: str) -> None:
        await broker.publish([bell(tier) for _ in range(5)] + [bell(tier, Priority.HIGH) for _ in range(5)])
        async with broker.consume(tier, "a") as consumer:
            taken = await consumer.receive(3)
            assert 1 <= len(taken) <= 3

    async def test_urgent_classes_come_first(self, broker: Broker, tier: str) -> None:
        low, normal, high, lost = (
            bell(tier, p) for p in (Priority.LOW, Priority.NORMAL, Priority.HIGH, Priority.RECOVERY)
        )
        await broker.publish([low, normal, high, lost])
        async with broker.consume(tier, "a") as consumer:
            assert bells(await hear(consumer, 4, free=1)) == [lost, high, normal, low]

    async def test_a_consumer_hears_only_its_classes_and_its_tier(self, broker: Broker, tier: str) -> None:
        wanted = bell(tier, Priority.RECOVERY)
        await broker.publish([bell(tier), bell(tier + "-other", Priority.RECOVERY), wanted])
        async with broker.consume(tier, "standby", [Priority.RECOVERY]) as consumer:
            assert bells(await hear(consumer, 1)) == [wanted]
        assert await broker.depth(tier) == 1

    async def test_each_ring_goes_to_one_of_several_consumers(self, broker: Broker, tier: str) -> None:
        rung = [bell(tier) for _ in range(60)]
        heard: list[Doorbell] = []
        done = asyncio.Event()

        async def listen(name: str) -> None:
            async with broker.consume(tier, name) as consumer:
                while True:
                    for delivery in await consumer.receive(4):
                        await delivery.ack()
                        heard.append(delivery.doorbell)
                        if len(heard) == len(rung):
                            done.set()

        listeners = [asyncio.create_task(listen(f"c{n}")) for n in range(4)]
        await broker.publish(rung)
        async with asyncio.timeout(30):
            await done.wait()
        for listener in listeners:
            listener.cancel()
        await asyncio.gather(*listeners, return_exceptions=True)
        assert sorted(heard) == sorted(rung)

    async def test_a_released_ring_is_heard_by_another(self, broker: Broker, tier: str) -> None:
        one = bell(tier)
        await broker.publish([one])
        async with broker.consume(tier, "a") as first, broker.consume(tier, "b") as second:
            (delivery,) = await first.receive(1)
            await delivery.release()
            assert bells(await hear(second, 1)) == [one]

    async def test_leaving_gives_back_what_was_not_acked(self, broker: Broker, tier: str) -> None:
        one = bell(tier)
        await broker.publish([one])
        async with broker.consume(tier, "a") as consumer:
            await consumer.receive(1)
        async with broker.consume(tier, "b") as consumer:
            assert bells(await hear(consumer, 1)) == [one]

    async def test_a_cancelled_receive_loses_nothing(self, broker: Broker, tier: str) -> None:
        rung = [bell(tier) for _ in range(30)]
        heard: list[Doorbell] = []
        async with asyncio.timeout(60), broker.consume(tier, "a") as consumer:
            for one in rung:
                waiting = asyncio.create_task(consumer.receive(1))
                await asyncio.sleep(0)
                publishing = asyncio.create_task(broker.publish([one]))
                await asyncio.sleep(0)
                waiting.cancel()
                await publishing
                result = (await asyncio.gather(waiting, return_exceptions=True))[0]
                if not isinstance(result, BaseException):
                    for delivery in result:
                        await delivery.ack()
                        heard.append(delivery.doorbell)
            while len(set(heard)) < len(rung):
                heard += bells(await hear(consumer, 1))
        assert set(heard) == set(rung)

    async def test_acking_twice_is_harmless(self, broker: Broker, tier: str) -> None:
        await broker.publish([bell(tier)])
        async with broker.consume(tier, "a") as consumer:
            (delivery,) = await consumer.receive(1)
            await delivery.ack()
            await delivery.ack()
            await delivery.release()
        assert await broker.depth(tier) == 0

    async def test_ten_thousand_rings_are_all_heard(self, broker: Broker, tier: str) -> None:
        rung = [bell(tier) for _ in range(10_000)]
        for start in range(0, len(rung), 1000):
            await broker.publish(rung[start : start + 1000])
        async with broker.consume(tier, "a") as consumer:
            assert set(bells(await hear(consumer, len(rung), free=500))) == set(rung)
