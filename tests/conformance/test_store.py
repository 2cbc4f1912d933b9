"""The store's conformance suite, on the memory backend and on a real Valkey."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from perdure.clock import SystemClock
from perdure.store.memory import MemoryStore
from perdure.store.valkey import ValkeyStore
from perdure.testing.store_conformance import StoreConformance
from perdure.valkey.connection import Client
from perdure.valkey.embedded import EmbeddedValkey


class TestMemoryStore(StoreConformance):
    @pytest.fixture
    def store(self) -> MemoryStore:
        return MemoryStore(SystemClock())


class TestValkeyStore(StoreConformance):
    @pytest.fixture
    async def store(self, valkey: EmbeddedValkey) -> AsyncIterator[ValkeyStore]:
        async with Client(valkey.url) as client:
            store = await ValkeyStore.open(client, SystemClock())
            yield store
            await store.aclose()
