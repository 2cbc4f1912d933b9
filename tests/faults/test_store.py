"""The store killed and stopped under a real deployment: nothing accepted is lost, nothing lost was accepted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from perdure.testing.faults import DevStack, kill, stopped, wait_until

from .conftest import GRAPHS, Trail, Watch

pytestmark = pytest.mark.anyio
STEPS = list("abcde")


@pytest.fixture(scope="module")
async def own(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[DevStack]:
    """A deployment whose store may be harmed."""
    folder = tmp_path_factory.mktemp("own")
    async with DevStack(folder, GRAPHS, workers=2, standby=0, slots=8, lease_ttl_s=3, drain_timeout_s=5) as stack:
        yield stack


async def test_a_store_killed_while_accepting_loses_no_accepted_task_and_half_stores_none(own: DevStack) -> None:
    """Posts while Valkey dies and comes back: each is answered 202 or 503; all that got a 202 finish; no task is
    there that nobody can explain."""
    accepted: list[str] = []
    refused = 0
    posted = asyncio.Event()
    back = asyncio.Event()

    async def post(http: httpx.AsyncClient) -> None:
        nonlocal refused
        while not back.is_set():
            answer = await http.post("/v1/tasks", json={"graph": "echo", "input": {}})
            if answer.status_code == 202:
                accepted.append(answer.json()["task_id"])
                assert answer.json()["stored"] == "fsync"
            else:
                assert answer.status_code == 503, answer.text
                assert int(answer.headers["Retry-After"]) >= 1
                assert answer.headers["Content-Type"] == "application/problem+json"
                refused += 1
            if len(accepted) > 50:
                posted.set()

    async with httpx.AsyncClient(base_url=own.url, timeout=30, trust_env=False) as http, own.client() as client:
        async with asyncio.TaskGroup() as group:
            for _ in range(8):
                group.create_task(post(http))
            await posted.wait()
            kill(own.valkey_pid)
            before = len(accepted)
            await wait_until(lambda: len(accepted) >= before + 50)
            back.set()
        assert refused > 0, "it was away"
        for task_id in accepted:
            task = await client.wait(task_id, 30)
            assert (task.status, task.result["trail"]) == ("succeeded", STEPS)
        listed: list[str] = []
        cursor: str | None = None
        while True:
            page = await client.list(limit=100, cursor=cursor)
            listed += [task.task_id for task in page.tasks]
            cursor = page.next_cursor
            if cursor is None:
                break
    assert set(accepted) <= set(listed)
    assert len(listed) == len(set(listed))
    # A task whose answer was lost with the connection may be there; each such post was told 503.
    assert len(listed) - len(accepted) <= refused


async def test_a_store_killed_while_tasks_run_is_waited_for(own: DevStack, trail: Trail, watch: Watch) -> None:
    """No step is lost or repeated: the running ones go on once the store is back."""
    async with own.client() as client:
        task = await client.submit("slow", {"log": str(trail), "pace": 0.5})
        watcher = watch(client, task.task_id)
        await watcher.started("b")
        kill(own.valkey_pid)
        await watcher.end()
        done = await client.get(task.task_id)
    assert (done.status, done.result["trail"], done.losses) == ("succeeded", STEPS, 0)
    assert trail.ends == trail.starts == dict.fromkeys(STEPS, 1)


async def test_a_store_that_hangs_for_longer_than_a_lease_costs_no_finished_step(
    own: DevStack, trail: Trail, watch: Watch
) -> None:
    """The holder stops by its own clock; after the store's return the task goes on from its last checkpoint."""
    async with own.client() as client:
        task = await client.submit("slow", {"log": str(trail), "pace": 0.5})
        watcher = watch(client, task.task_id)
        await watcher.started("b")
        with stopped(own.valkey_pid):
            await asyncio.sleep(5)  # longer than the lease, by the only clock that a stopped server has
        await watcher.end()
        done = await client.get(task.task_id)
    assert (done.status, done.result["trail"]) == ("succeeded", STEPS)
    assert {name: trail.starts[name] for name in "acde"} == dict.fromkeys("acde", 1)
    assert trail.starts["b"] <= 2, "the step whose end the store had not heard of"


async def test_readiness_tells_of_a_store_that_is_away(own: DevStack, tmp_path: Path) -> None:
    async with httpx.AsyncClient(base_url=own.url, timeout=30, trust_env=False) as http:
        assert (await http.get("/readyz")).status_code == 200
        with stopped(own.valkey_pid):
            assert (await http.get("/livez")).status_code == 200, "the process lives"
            async with asyncio.timeout(5):
                assert (await http.get("/readyz")).status_code == 503, "and not after a probe's patience"

        async def ready() -> bool:
            return (await http.get("/readyz")).status_code == 200

        await wait_until(ready)
