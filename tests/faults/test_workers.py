"""Real worker processes, killed, stopped and misused in the middle of their work: no finished step runs twice."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from perdure.client import AsyncClient
from perdure.testing.faults import DevStack, alive, kill, stopped, wait_gone, wait_until

from .conftest import Trail, Watch

pytestmark = pytest.mark.anyio

STEPS = list("abcde")


async def settled(client: AsyncClient, count: int = 3) -> None:
    """Wait until the fleet is whole again after an earlier kill."""

    async def whole() -> bool:
        return len(await client.workers()) >= count

    await wait_until(whole, 40)


async def test_a_worker_killed_in_mid_step_costs_that_step_alone(
    stack: DevStack, client: AsyncClient, trail: Trail, watch: Watch
) -> None:
    """SIGKILL: finished steps run once, the cut one twice, the stream has no gap, the result is right."""
    await settled(client)
    task = await client.submit("slow", {"log": str(trail), "pace": 0.4})
    watcher = watch(client, task.task_id)
    await watcher.started("c")
    victim = await stack.holder(client, task.task_id)
    assert not victim.standby
    kill(victim.pid)
    await watcher.end()
    done = await client.get(task.task_id)
    assert (done.status, done.result["trail"], done.attempt, done.losses) == ("succeeded", STEPS, 2, 1)
    assert trail.starts == {"a": 1, "b": 1, "c": 2, "d": 1, "e": 1}
    assert trail.ends == dict.fromkeys(STEPS, 1)
    assert done.worker != victim.worker_id
    [recovery] = watcher.named("recovery")
    told = recovery["params"]["data"]
    assert (told["dead_worker"], told["new_worker"], told["attempt"]) == (victim.worker_id, done.worker, 2)
    first, last = told["superseded"]
    cut = [event for event in watcher.events if first <= event["seq"] <= last]
    assert all(event["params"]["attempt"] == 1 for event in cut)
    assert "c" in {event["params"]["node"] for event in cut}


async def test_the_next_step_follows_a_kill_within_half_a_second_or_so(
    stack: DevStack, client: AsyncClient, trail: Trail, watch: Watch
) -> None:
    """A lease is 2 s here; a process's death must not wait for it. Bounded loosely, for machines that are busy."""
    await settled(client)
    task = await client.submit("slow", {"log": str(trail), "pace": 1.0})
    watcher = watch(client, task.task_id)
    await watcher.started("b")
    victim = await stack.holder(client, task.task_id)
    loop = asyncio.get_running_loop()
    began = loop.time()
    kill(victim.pid)
    await watcher.started("b", attempt=2)
    assert loop.time() - began < 1.5
    await client.cancel(task.task_id)


async def test_a_worker_stopped_for_longer_than_its_lease_can_do_nothing_when_it_wakes(
    stack: DevStack, client: AsyncClient, trail: Trail, watch: Watch
) -> None:
    """SIGSTOP, then SIGCONT once another has the task: not one event or checkpoint of the zombie is accepted."""
    await settled(client)
    task = await client.submit("slow", {"log": str(trail), "pace": 0.6})
    watcher = watch(client, task.task_id)
    await watcher.started("b")
    zombie = await stack.holder(client, task.task_id)
    with stopped(zombie.pid):
        taken = await watcher.until(
            lambda event: event["method"] == "tasks" and event["params"]["attempt"] == 2, timeout_s=15
        )
    events = await watcher.end()
    done = await client.get(task.task_id)
    assert (done.status, done.result["trail"], done.losses) == ("succeeded", STEPS, 1)
    after = [event for event in events if event["seq"] >= taken["seq"]]
    assert {event["params"]["attempt"] for event in after} == {2}
    assert zombie.worker_id not in {event["params"]["worker"] for event in after}
    checkpoints = {event["params"]["data"]["checkpoint_id"] for event in events if event["method"] == "checkpoints"}
    assert len(checkpoints) == len(STEPS) + 2, "one for each step, the input and the start: none of the zombie's"
    assert trail.starts["a"] == trail.starts["c"] == trail.starts["d"] == trail.starts["e"] == 1
    assert alive(zombie.pid), "it woke and lives; only its lease is gone"


async def test_a_worker_told_to_leave_finishes_its_step_and_hands_the_task_over(
    stack: DevStack, client: AsyncClient, trail: Trail, watch: Watch
) -> None:
    """SIGTERM: no step is cut, none runs twice, the worker leaves, and the task loses no attempt."""
    await settled(client)
    task = await client.submit("slow", {"log": str(trail), "pace": 0.4})
    watcher = watch(client, task.task_id)
    await watcher.started("b")
    leaving = await stack.holder(client, task.task_id)
    os.kill(leaving.pid, signal.SIGTERM)
    await asyncio.to_thread(wait_gone, leaving.pid)
    await watcher.end()
    done = await client.get(task.task_id)
    assert (done.status, done.result["trail"], done.losses) == ("succeeded", STEPS, 0)
    assert trail.starts == trail.ends == dict.fromkeys(STEPS, 1)
    assert done.worker != leaving.worker_id
    assert watcher.named("recovery") == [], "nothing was lost, so there is nothing to strike out"


@pytest.mark.parametrize(("graph", "node"), [("exits", "leave"), ("crashes", "crash")])
async def test_a_node_that_takes_its_process_down_is_given_up_after_max_attempts(
    stack: DevStack, client: AsyncClient, trail: Trail, watch: Watch, graph: str, node: str
) -> None:
    """`os._exit` and a segmentation fault: the task is dead and says why, the others of the pool are unharmed."""
    await settled(client)
    others = [await client.submit("slow", {"pace": 0.2}) for _ in range(4)]
    task = await client.submit(graph, {"log": str(trail)}, max_attempts=2)
    watcher = watch(client, task.task_id)
    await watcher.end()
    done = await client.get(task.task_id)
    assert (done.status, done.reason, done.losses) == ("dead", "worker_lost", 2)
    assert done.error is not None
    assert done.error.type == "WorkerLost"
    # A death that neighbours shared is charged to nobody until it is clear whose it was, so there may be a few more.
    assert 2 <= done.attempt < 10
    assert trail.starts == {node: done.attempt}
    for other in others:
        finished = await client.wait(other.task_id, 40)
        assert finished.status == "succeeded", "they shared the process, and pay nothing for its deaths"
        assert finished.result["trail"] == STEPS


async def test_a_node_that_blocks_the_loop_for_longer_than_its_lease_keeps_its_task(
    client: AsyncClient, trail: Trail, watch: Watch
) -> None:
    """A busy worker is no dead worker."""
    await settled(client)
    task = await client.submit("blocks", {"log": str(trail), "pace": 3.5})
    await watch(client, task.task_id).end()
    done = await client.get(task.task_id)
    assert (done.status, done.attempt, done.losses) == ("succeeded", 1, 0)
    assert trail.starts == trail.ends == {"block": 1}


@pytest.mark.parametrize("graph", ["hangs", "hangs_in_a_thread"])
async def test_a_cancel_ends_a_node_that_hangs_and_frees_its_slot(
    stack: DevStack, client: AsyncClient, trail: Trail, watch: Watch, graph: str
) -> None:
    await settled(client)
    task = await client.submit(graph, {"log": str(trail)})
    watcher = watch(client, task.task_id)
    await watcher.started("forever")
    holder = await stack.holder(client, task.task_id)
    ended = await client.cancel(task.task_id)
    assert ended.status == "cancelled"
    await watcher.end(timeout_s=5)

    async def freed() -> bool:
        return all(task.task_id not in worker.held for worker in await client.workers())

    await wait_until(freed)
    assert alive(holder.pid)
    assert (await client.get(task.task_id)).reason == "requested"


async def test_a_deadline_ends_a_node_that_hangs(client: AsyncClient, trail: Trail, watch: Watch) -> None:
    task = await client.submit("hangs", {"log": str(trail)}, deadline_s=1.5)
    watcher = watch(client, task.task_id)
    await watcher.end(timeout_s=10)
    done = await client.get(task.task_id)
    assert (done.status, done.reason) == ("failed", "deadline")
    assert done.error is not None
    assert done.error.type == "DeadlineExceeded"
    assert trail.starts == {"forever": 1}


async def test_what_a_fan_out_had_finished_before_the_kill_is_not_done_again(
    stack: DevStack, client: AsyncClient, trail: Trail, watch: Watch
) -> None:
    """One superstep of eight `Send`s, half of them done: only the other half runs again."""
    await settled(client)
    task = await client.submit("fan", {"log": str(trail), "pace": 1.5, "count": 8, "item": 0})
    watcher = watch(client, task.task_id)
    even = {"0", "2", "4", "6"}
    finished: set[str] = set()

    def all_even_done(event: dict[str, object]) -> bool:
        params = event["params"]
        assert isinstance(params, dict)
        if event["method"] == "tasks" and params["node"] == "item" and params["data"]["status"] == "finished":
            finished.add(params["data"]["id"])
        return len(finished) == 4

    await watcher.until(all_even_done)
    kill((await stack.holder(client, task.task_id)).pid)
    await watcher.end()
    done = await client.get(task.task_id)
    assert (done.status, sorted(done.result["answers"])) == ("succeeded", list(range(8)))
    assert trail.ends == {**dict.fromkeys("01234567", 1), "gather": 1}
    assert {number for number, count in trail.starts.items() if count == 1} == even | {"gather"}
    assert {number for number, count in trail.starts.items() if count == 2} == set("1357")


async def test_what_the_functional_api_had_finished_before_the_kill_is_not_done_again(
    stack: DevStack, client: AsyncClient, trail: Trail, watch: Watch
) -> None:
    await settled(client)
    task = await client.submit("functional", {"log": str(trail), "pace": 0.4, "count": 5})
    watcher = watch(client, task.task_id)
    finished: set[str] = set()

    def two_done(event: dict[str, object]) -> bool:
        params = event["params"]
        assert isinstance(params, dict)
        if event["method"] == "tasks" and params["node"] == "part" and params["data"]["status"] == "finished":
            finished.add(params["data"]["id"])
        return len(finished) == 2

    await watcher.until(two_done)
    kill((await stack.holder(client, task.task_id)).pid)
    await watcher.end()
    done = await client.get(task.task_id)
    assert (done.status, done.result) == ("succeeded", {"parts": [0, 1, 2, 3, 4]})
    assert trail.ends == dict.fromkeys("01234", 1)
    assert trail.starts["0"] == trail.starts["1"] == 1


async def test_a_thousand_tasks_at_once_all_finish_once(client: AsyncClient) -> None:
    await many(client, 1_000)


@pytest.mark.chaos
@pytest.mark.timeout(600)
async def test_ten_thousand_tasks_at_once_all_finish_once(client: AsyncClient) -> None:
    await many(client, 10_000)


async def many(client: AsyncClient, count: int) -> None:
    await settled(client)
    gate = asyncio.Semaphore(64)  # what one client of ours does at once; all of them wait in the store meanwhile

    async def submit(n: int) -> str:
        async with gate:
            return (await client.submit("echo", {}, metadata={"batch": str(count)})).task_id

    async def ended(task_id: str) -> None:
        async with gate:
            task = await client.wait(task_id, 300)
        assert (task.status, task.result["trail"], task.attempt) == ("succeeded", STEPS, 1)

    ids = await asyncio.gather(*map(submit, range(count)))
    assert len(set(ids)) == count
    await asyncio.gather(*map(ended, ids))


async def test_tasks_of_one_thread_run_in_order_though_workers_are_killed(
    stack: DevStack, client: AsyncClient, trail: Trail, watch: Watch
) -> None:
    """Five tasks on one thread, two kills: each runs after the one before it has ended, and sees its state."""
    await settled(client)
    tasks = [
        await client.submit("slow", {"log": str(trail), "pace": 0.2}, thread_id=f"line-{os.getpid()}") for _ in range(5)
    ]
    for number in (1, 3):
        await watch(client, tasks[number].task_id).started("b")
        kill((await stack.holder(client, tasks[number].task_id)).pid)
    ended_ms = 0
    for number, task in enumerate(tasks):
        done = await client.wait(task.task_id, 40)
        assert done.status == "succeeded"
        assert done.result["trail"] == STEPS * (number + 1), "the thread's state, with what came before"
        assert done.started_ms is not None
        assert done.finished_ms is not None
        assert done.started_ms >= ended_ms, "no task started before the one before it had ended"
        ended_ms = done.finished_ms
    assert trail.ends == dict.fromkeys(STEPS, 5)
    assert trail.starts == {**dict.fromkeys(STEPS, 5), "b": 7}
