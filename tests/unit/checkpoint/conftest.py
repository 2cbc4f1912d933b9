"""A task that runs, and savers for its thread."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import pytest
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import Checkpoint
from langgraph.checkpoint.base.id import uuid6

from perdure.checkpoint import ValkeySaver
from perdure.clock import SystemClock
from perdure.lifecycle.ids import WorkerId
from perdure.lifecycle.lease import Lease
from perdure.lifecycle.task import TaskSpec
from perdure.store.valkey import ValkeyStore
from perdure.testing.samples import make_spec, ref_of
from perdure.valkey.connection import Client
from perdure.valkey.embedded import EmbeddedValkey


class Running(NamedTuple):
    """A claimed task, with a saver that holds its lease."""

    store: ValkeyStore
    client: Client
    spec: TaskSpec
    lease: Lease
    saver: ValkeySaver

    def config(self, checkpoint_id: str | None = None, namespace: str = "") -> RunnableConfig:
        return config_of(self.spec.thread_id, checkpoint_id, namespace)


def config_of(thread_id: str, checkpoint_id: str | None = None, namespace: str = "") -> RunnableConfig:
    configurable: dict[str, Any] = {"thread_id": thread_id, "checkpoint_ns": namespace}
    if checkpoint_id:
        configurable["checkpoint_id"] = checkpoint_id
    return {"configurable": configurable}


def checkpoint_of(values: dict[str, Any], version: int = 1, checkpoint_id: str | None = None) -> Checkpoint:
    return Checkpoint(
        v=4,
        id=checkpoint_id or str(uuid6()),
        ts="2026-01-01T00:00:00+00:00",
        channel_values=values,
        channel_versions=dict.fromkeys(values, version),
        versions_seen={},
        updated_channels=None,
    )


@pytest.fixture
async def client(valkey: EmbeddedValkey) -> AsyncIterator[Client]:
    async with Client(valkey.url) as made:
        yield made


@pytest.fixture
async def running(client: Client) -> AsyncIterator[Running]:
    store = await ValkeyStore.open(client, SystemClock())
    spec = make_spec()
    await store.create(spec)
    claim = await store.claim(ref_of(spec), WorkerId("w"), 60_000)
    assert claim is not None
    saver = ValkeySaver(client, lease=claim.lease)
    yield Running(store, client, spec, claim.lease, saver)
    await saver.aclose()
    await store.aclose()
