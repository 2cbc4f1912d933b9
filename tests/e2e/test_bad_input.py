"""Graphs that misbehave and clients that ask at the wrong time, against a whole deployment."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from perdure.client import AsyncClient, Refused
from perdure.testing.faults import DevStack, alive

pytestmark = pytest.mark.anyio
GRAPHS = Path(__file__).parents[1] / "graphs" / "langgraph.json"


@pytest.fixture
async def client(stack: DevStack) -> AsyncIterator[AsyncClient]:
    async with stack.client() as client:
        yield client


async def test_a_node_that_raises_fails_its_task_with_the_authors_error(client: AsyncClient) -> None:
    task = await client.submit("raises", {})
    done = await client.wait(task.task_id, 30)
    assert (done.status, done.reason) == ("failed", "graph_error")
    assert done.error is not None
    assert (done.error.type, done.error.message, done.error.node) == ("ValueError", "the plan is impossible", "plan")
    assert done.error.traceback is not None
    assert "agents.py" in done.error.traceback
    assert done.attempt == 1, "an author's error is not tried again by itself"


async def test_a_node_that_returns_the_wrong_type_fails_its_task_by_name(client: AsyncClient) -> None:
    task = await client.submit("wrong_type", {})
    done = await client.wait(task.task_id, 30)
    assert done.status == "failed"
    assert done.error is not None
    assert "42" in done.error.message
    assert done.error.type == "InvalidUpdateError"


async def test_what_cannot_be_stored_fails_its_task_and_names_node_and_key(client: AsyncClient) -> None:
    task = await client.submit("unserialisable", {})
    done = await client.wait(task.task_id, 30)
    assert (done.status, done.reason) == ("failed", "unserializable")
    assert done.error is not None
    assert "'answers'" in done.error.message
    assert "'plan'" in done.error.message


async def test_a_cancel_before_the_start_ends_a_task_that_never_ran(client: AsyncClient) -> None:
    task = await client.submit("echo", {}, after_s=3600)
    ended = await client.cancel(task.task_id)
    assert (ended.status, ended.attempt) == ("cancelled", 0)
    told = [event async for event in client.stream(task.task_id)]
    assert [event["params"]["data"]["status"] for event in told] == ["queued", "cancelled"]


async def test_a_cancel_while_it_runs_stops_the_step(client: AsyncClient) -> None:
    task = await client.submit("slow", {"pace": 20})
    async for event in client.stream(task.task_id):
        params = event["params"]
        if event["method"] == "tasks" and params["node"] == "a":
            assert (await client.cancel(task.task_id)).status == "cancelled"
    done = await client.get(task.task_id)
    assert (done.status, done.reason, done.result) == ("cancelled", "requested", None)


async def test_a_cancel_after_the_end_changes_nothing(client: AsyncClient) -> None:
    task = await client.submit("echo", {})
    done = await client.wait(task.task_id, 30)
    assert await client.cancel(task.task_id) == done
    assert await client.get(task.task_id) == done


async def test_a_cancel_of_a_question_ends_it_and_frees_the_thread(client: AsyncClient) -> None:
    thread_id = f"question-{uuid.uuid4()}"
    task = await client.submit("ask", {}, thread_id=thread_id)
    behind = await client.submit("echo", {}, thread_id=thread_id)
    assert (await client.wait(task.task_id, 30)).status == "interrupted"
    assert (await client.get(behind.task_id)).status == "queued", "the question owns the thread"
    assert (await client.cancel(task.task_id)).status == "cancelled"
    assert (await client.wait(behind.task_id, 30)).status == "succeeded"
    with pytest.raises(Refused):
        await client.answer(task.task_id, "too late")


async def test_of_two_answers_at_once_one_wins(client: AsyncClient) -> None:
    task = await client.submit("ask", {})
    assert (await client.wait(task.task_id, 30)).status == "interrupted"
    answers = await asyncio.gather(
        client.answer(task.task_id, "one"), client.answer(task.task_id, "two"), return_exceptions=True
    )
    [refused] = [answer for answer in answers if isinstance(answer, BaseException)]
    assert isinstance(refused, Refused)
    assert refused.status == 409
    done = await client.wait(task.task_id, 30)
    won = "two" if answers[0] is refused else "one"
    assert (done.status, done.result["answers"]) == ("succeeded", [won])


async def test_two_questions_in_one_node_get_their_own_answers(client: AsyncClient) -> None:
    """The node runs again for each answer; the first must not be given to the second question."""
    task = await client.submit("ask_twice", {})
    for question, answer in (("first?", 1), ("second?", 2)):
        waiting = await client.wait(task.task_id, 30)
        assert [asked.value for asked in waiting.interrupts] == [question]
        await client.answer(task.task_id, answer)
    done = await client.wait(task.task_id, 30)
    assert (done.status, done.result["answers"]) == ("succeeded", [1, 2])


async def test_the_same_key_from_fifty_clients_makes_one_task(client: AsyncClient) -> None:
    key = f"order-{uuid.uuid4()}"
    handles = await asyncio.gather(
        *(client.submit("echo", {}, idempotency_key=key, metadata={"key": key}) for _ in range(50))
    )
    assert len({handle.task_id for handle in handles}) == 1
    assert len((await client.list(metadata={"key": key})).tasks) == 1
    assert (await client.wait(handles[0].task_id, 30)).attempt == 1


async def test_a_failed_task_is_revived_from_its_last_checkpoint_unless_its_thread_went_on(
    client: AsyncClient,
) -> None:
    task = await client.submit("raises", {}, thread_id=(thread_id := f"thread-{uuid.uuid4()}"))
    assert (await client.wait(task.task_id, 30)).status == "failed"
    assert (await client.requeue(task.task_id)).status in ("queued", "running", "failed")
    again = await client.wait(task.task_id, 30)
    assert (again.status, again.attempt) == ("failed", 2)
    later = await client.submit("echo", {}, thread_id=thread_id)
    assert (await client.wait(later.task_id, 30)).status == "succeeded"
    with pytest.raises(Refused) as refused:
        await client.requeue(task.task_id)
    assert refused.value.reason == "thread_moved_on"


async def test_a_second_deployment_in_one_folder_is_refused_and_the_first_unharmed(
    stack: DevStack, client: AsyncClient, tmp_path: Path
) -> None:
    second = DevStack(tmp_path, GRAPHS, data_dir=stack.folder / "data", workers=1)
    with pytest.raises(RuntimeError, match="another Perdure uses the data folder"):
        await second.start()
    task = await client.submit("echo", {})
    assert (await client.wait(task.task_id, 20)).status == "succeeded"
    assert alive(stack.valkey_pid)


async def test_a_port_in_use_is_told_before_anything_is_started(stack: DevStack, tmp_path: Path) -> None:
    port = stack.url.rpartition(":")[2]
    second = DevStack(tmp_path / "other", GRAPHS, port=port, workers=1)
    with pytest.raises(RuntimeError, match=rf"cannot listen on 127\.0\.0\.1:{port}.*--port"):
        await second.start()
    assert not (tmp_path / "other" / "data").exists()
