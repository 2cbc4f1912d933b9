"""A deployment that is killed and started again on its data folder goes on where it stood."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from perdure.client import Refused
from perdure.testing.faults import DevStack, alive, wait_gone

from .conftest import GRAPHS, Trail, Watch

pytestmark = pytest.mark.anyio
STEPS = list("abcde")


def deployment(folder: Path, **settings: object) -> DevStack:
    base: dict[str, object] = {"workers": 2, "standby": 0, "slots": 4, "lease_ttl_s": 2, "drain_timeout_s": 5}
    return DevStack(folder, GRAPHS, **{**base, **settings})


@pytest.mark.parametrize("how", ["kill", "kill_all"])
async def test_a_task_goes_on_after_the_deployment_was_killed(
    tmp_path: Path, trail: Trail, watch: Watch, how: str
) -> None:
    """`kill`: the gateway's and supervisor's process group; workers and store are orphans and must end themselves.
    `kill_all`: everything at once, as when a machine loses power. The client's stream lives through both."""
    async with deployment(tmp_path / "d") as stack, stack.client() as client:
        running = await client.submit("slow", {"log": str(trail), "pace": 0.5})
        waiting = [await client.submit("echo", {}, after_s=2) for _ in range(10)]
        watcher = watch(client, running.task_id)
        await watcher.started("c")
        before = stack.pids
        await (stack.kill() if how == "kill" else stack.kill_all())
        await stack.start()
        await watcher.end(timeout_s=40)
        done = await client.get(running.task_id)
        assert (done.status, done.result["trail"]) == ("succeeded", STEPS)
        assert trail.ends == dict.fromkeys(STEPS, 1)
        assert trail.starts["a"] == trail.starts["b"] == trail.starts["d"] == trail.starts["e"] == 1
        for task in waiting:
            assert (await client.wait(task.task_id, 30)).status == "succeeded"
        for pid in before:
            await asyncio.to_thread(wait_gone, pid)
        assert await stack.stop() == 0
        assert stack.pids == []


async def test_an_interrupt_is_answered_after_everything_was_started_again(
    tmp_path: Path, trail: Trail, watch: Watch
) -> None:
    """The question waits in the store and holds no worker; the stream that was open goes on with the answer."""
    async with deployment(tmp_path / "d", workers=1) as stack, stack.client() as client:
        task = await client.submit("ask", {"log": str(trail)})
        watcher = watch(client, task.task_id)
        assert (await client.wait(task.task_id, 20)).status == "interrupted"
        await watcher.status("interrupted")
        assert await stack.stop() == 0
        assert stack.pids == []
        await stack.start()
        waiting = await client.get(task.task_id)
        assert (waiting.status, [question.value for question in waiting.interrupts]) == (
            "interrupted",
            [{"question": "May I?"}],
        )
        answers = await asyncio.gather(
            *(client.answer(task.task_id, f"yes, {n}") for n in range(5)), return_exceptions=True
        )
        won = [n for n, answer in enumerate(answers) if not isinstance(answer, BaseException)]
        assert len(won) == 1, "resumed five times at once: one wins"
        assert all(isinstance(answer, Refused) for n, answer in enumerate(answers) if n not in won)
        done = await client.wait(task.task_id, 20)
        assert (done.status, done.result["answers"]) == ("succeeded", [f"yes, {won[0]}"])
        assert trail.ends == {"before": 1, f"question yes, {won[0]}": 1, "after": 1}
        await watcher.end()


async def test_a_drained_deployment_leaves_nothing_behind_and_hands_its_tasks_to_the_next(
    tmp_path: Path, trail: Trail, watch: Watch
) -> None:
    async with deployment(tmp_path / "d") as stack, stack.client() as client:
        task = await client.submit("slow", {"log": str(trail), "pace": 0.4})
        watcher = watch(client, task.task_id)
        await watcher.started("b")
        pids = stack.pids
        assert await stack.stop() == 0
        assert not any(map(alive, pids))
        assert trail.starts == trail.ends, "the running step was finished"
        await stack.start()
        await watcher.end()
        done = await client.get(task.task_id)
        assert (done.status, done.result["trail"], done.losses) == ("succeeded", STEPS, 0)
        assert trail.starts == trail.ends == dict.fromkeys(STEPS, 1)
