"""The same suites on Redis, where one is installed: no module and no function of Valkey alone may be needed."""

from __future__ import annotations

import asyncio
import os
import shutil
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from perdure.broker.valkey import ValkeyBroker
from perdure.clock import SystemClock
from perdure.store.valkey import ValkeyStore
from perdure.testing.broker_conformance import BrokerConformance
from perdure.testing.store_conformance import StoreConformance
from perdure.valkey.connection import Client
from perdure.valkey.embedded import EmbeddedValkey


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedValkey]:
    binary = shutil.which("redis-server")
    if binary is None:
        if os.environ.get("CI") == "true":
            pytest.fail("redis-server is not installed; scripts/servers.sh installs it")
        pytest.skip("redis-server is not installed (apt-get install redis-server)")
    server = EmbeddedValkey(tmp_path_factory.mktemp("redis"), binary=Path(binary))
    asyncio.run(server.start())
    yield server
    asyncio.run(server.stop())


class TestRedisStore(StoreConformance):
    @pytest.fixture
    async def store(self, redis: EmbeddedValkey) -> AsyncIterator[ValkeyStore]:
        async with Client(redis.url) as client:
            store = await ValkeyStore.open(client, SystemClock())
            yield store
            await store.aclose()


class TestRedisBroker(BrokerConformance):
    @pytest.fixture
    def tier(self) -> str:
        return f"tier-{uuid.uuid4()}"

    @pytest.fixture
    async def broker(self, redis: EmbeddedValkey) -> AsyncIterator[ValkeyBroker]:
        async with Client(redis.url) as client:
            yield ValkeyBroker(client, redeliver_after_s=0.2)
