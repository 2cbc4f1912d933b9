"""What all tests share: the event loop, and one real Valkey for the whole run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from perdure.testing.faults import DevStack
from perdure.valkey.embedded import EmbeddedValkey

GRAPHS = Path(__file__).parent / "graphs" / "langgraph.json"


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedValkey]:
    """A real server of our own, with fsync on every write. Tests use ids of their own, so one serves all."""
    server = EmbeddedValkey(tmp_path_factory.mktemp("valkey"))
    asyncio.run(server.start())
    yield server
    asyncio.run(server.stop())


@pytest.fixture(scope="session")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[DevStack]:
    """A whole deployment with real processes, for tests that harm no more than its workers. Its leases are short."""
    folder = tmp_path_factory.mktemp("stack")
    async with DevStack(folder, GRAPHS, workers=3, standby=1, slots=8, lease_ttl_s=2, drain_timeout_s=5) as stack:
        yield stack
