"""What all tests share: the event loop, and one real Valkey for the whole run."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from perdure.valkey.embedded import EmbeddedValkey


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
