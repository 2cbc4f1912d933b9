"""The broker's conformance suite, on the memory backend and on a real Valkey."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator

import pytest

from perdure.broker.memory import MemoryBroker
from perdure.broker.valkey import ValkeyBroker
from perdure.testing.broker_conformance import BrokerConformance, bell, hear
from perdure.valkey.connection import Client
from perdure.valkey.embedded import EmbeddedValkey


@pytest.fixture
def tier() -> str:
    return f"tier-{uuid.uuid4()}"


class TestMemoryBroker(BrokerConformance):
    @pytest.fixture
    def broker(self) -> MemoryBroker:
        return MemoryBroker()


class TestValkeyBroker(BrokerConformance):
    @pytest.fixture
    async def broker(self, valkey: EmbeddedValkey) -> AsyncIterator[ValkeyBroker]:
        async with Client(valkey.url) as client:
            yield ValkeyBroker(client, redeliver_after_s=0.2)

    @pytest.mark.anyio
    async def test_rings_of_a_dead_consumer_are_taken_over(
        self, valkey: EmbeddedValkey, broker: ValkeyBroker, tier: str
    ) -> None:
        """A consumer whose connection is cut between ring and claim gives nothing back; another takes it over."""
        one = bell(tier)
        await broker.publish([one])
        async with Client(valkey.url) as doomed:
            dying = ValkeyBroker(doomed).consume(tier, "dead")
            consumer = await dying.__aenter__()
            assert len(await consumer.receive(1)) == 1
            await doomed.aclose()
        async with broker.consume(tier, "alive") as consumer:
            assert [delivery.doorbell for delivery in await hear(consumer, 1)] == [one]
