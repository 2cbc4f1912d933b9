"""The gateway over a real Valkey: what depends on the store's own timing, and on the saver's own behaviour."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from functools import cache

import pytest

from perdure.broker.memory import MemoryBroker
from perdure.checkpoint import ValkeySaver
from perdure.client import AsyncClient, Refused
from perdure.clock import SystemClock
from perdure.gateway.app import GatewaySettings, create_app
from perdure.gateway.server import listen, serving
from perdure.lifecycle.ids import Tenant
from perdure.store.valkey import ValkeyStore
from perdure.valkey.connection import Client as Valkey
from perdure.valkey.embedded import EmbeddedValkey

from .conftest import House, Registry, counting_graph

pytestmark = pytest.mark.anyio


@pytest.fixture
async def house(valkey: EmbeddedValkey) -> AsyncIterator[House]:
    clock, broker = SystemClock(), MemoryBroker()
    async with Valkey(valkey.url) as connection:
        store = await ValkeyStore.open(connection, clock)

        @cache
        def savers(tenant: Tenant) -> ValkeySaver:
            return ValkeySaver(connection, tenant=tenant, clock=clock)

        gateway = create_app(store, broker, Registry(), savers, GatewaySettings(), clock)
        async with serving(gateway, listen("127.0.0.1", 0, open_to_all=False), gateway.drain) as url:
            house = House(gateway, store, broker, savers(Tenant("default")), url)
            yield house
            await house.http.aclose()
        await store.aclose()


async def test_followers_that_come_at_any_time_get_each_event_of_a_burst_once(house: House) -> None:
    chance = random.Random(11)
    accepted = await house.submit()
    lease = await house.claim(accepted)
    started = asyncio.Event()

    async def speak() -> None:
        for said in range(0, 3_000, 100):
            await house.say(lease, *(str(n) for n in range(said, said + 100)))
            if said == 500:
                started.set()
        await house.store.succeed(lease, b"{}")

    async def follow() -> list[int]:
        got: list[int] = []
        async with AsyncClient(house.url) as client:
            while not got or got[-1] < 3_003:
                left = chance.randint(1, 900)
                stream = client.stream(accepted["task_id"], since=got[-1] if got else None)
                async for event in stream:
                    got.append(event["seq"])
                    left -= 1
                    if left == 0:
                        break
                await stream.aclose()  # type: ignore[attr-defined]
        return got

    async with asyncio.TaskGroup() as group:
        followers = [group.create_task(follow()) for _ in range(2)]
        group.create_task(speak())
        await started.wait()
        followers += [group.create_task(follow()) for _ in range(2)]
    for follower in followers:
        assert follower.result() == list(range(1, 3_004))


async def test_state_correction_fork_and_history_with_the_valkey_saver(house: House) -> None:
    async with AsyncClient(house.url) as client:
        thread = (await client.create_thread(graph="echo")).thread_id
        graph = counting_graph().copy(update={"checkpointer": house.saver})
        await graph.ainvoke({"n": 0}, {"configurable": {"thread_id": thread}})
        assert (await client.state(thread))["values"] == {"n": 11}
        points = (await client.checkpoints(thread))["checkpoints"]
        assert [point["step"] for point in points] == [2, 1, 0, -1]
        whole = (await client.fork(thread))["thread_id"]
        part = (await client.fork(thread, checkpoint_id=points[1]["checkpoint_id"]))["thread_id"]
        assert (await client.state(whole))["values"] == {"n": 11}
        assert ((await client.state(part))["values"], (await client.state(part))["next"]) == ({"n": 1}, ["two"])
        assert len((await client.checkpoints(part))["checkpoints"]) == 3
        await client.update_state(part, {"n": 50}, as_node="one")
        assert (await client.state(part))["values"] == {"n": 50}
        task = await client.submit("echo", None, thread_id=part)
        with pytest.raises(Refused):
            await client.update_state(part, {"n": 1}, as_node="one")
        await client.cancel(task.task_id)
        await client.delete_thread(part)
        assert (await client.state(thread))["values"] == {"n": 11}
