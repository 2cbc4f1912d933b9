"""The clients against a real gateway: streams that are cut anywhere, retries that never double, errors as types."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import anyio.to_thread
import httpx
import pytest

from perdure.client import (
    AccessDenied,
    AsyncClient,
    BadRequest,
    Client,
    Missing,
    Refused,
    TaskInfo,
    Unreachable,
    WaitedTooLong,
    _Frames,
)
from perdure.gateway.settings import parse_api_keys
from perdure.lifecycle.task import Interrupt

from .gateway.conftest import House, open_house

pytestmark = pytest.mark.anyio


@pytest.fixture
async def house() -> AsyncIterator[House]:
    async with open_house(heartbeat_s=0.05, chaos=True) as house:
        yield house


@pytest.fixture
async def client(house: House) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(house.url, jitter=lambda: 0.0) as client:
        yield client


async def work(house: House, task_id: str, thread_id: str, count: int) -> None:
    lease = await house.claim({"task_id": task_id, "thread_id": thread_id})
    for n in range(count):
        await house.say(lease, str(n))
    await house.store.succeed(lease, b'{"answer":42}')


async def test_submit_stream_and_wait(house: House, client: AsyncClient) -> None:
    task = await client.submit("echo", {"n": 1}, metadata={"who": "me"}, deadline_s=60)
    async with asyncio.TaskGroup() as group:
        group.create_task(work(house, task.task_id, task.thread_id, 5))
        seqs = [event["seq"] async for event in client.stream(task.task_id)]
    assert seqs == list(range(1, 9))
    done = await client.wait(task.task_id, timeout=10)
    assert (done.status, done.result, done.metadata, done.ended) == ("succeeded", {"answer": 42}, {"who": "me"}, True)
    assert [event async for event in client.stream(task.task_id, since=seqs[-1])] == []
    assert [event["seq"] async for event in client.stream(task.task_id, since=5, channels=["custom"])] == [6, 7]


class Cutter(httpx.AsyncBaseTransport):
    """A proxy that cuts every stream after so many bytes, ever more, so that in the end each place was cut."""

    def __init__(self) -> None:
        self._inner = httpx.AsyncHTTPTransport()
        self.allowed = 0
        self.connections = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await self._inner.handle_async_request(request)
        self.connections += 1
        self.allowed += 397
        stream = response.stream
        assert isinstance(stream, httpx.AsyncByteStream)
        return httpx.Response(response.status_code, headers=response.headers, stream=_Cut(stream, self.allowed))

    async def aclose(self) -> None:
        await self._inner.aclose()


class _Cut(httpx.AsyncByteStream):
    def __init__(self, inner: httpx.AsyncByteStream, allowed: int) -> None:
        self._inner, self._left = inner, allowed

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for piece in self._inner:
            yield piece[: self._left]
            self._left -= len(piece)
            if self._left <= 0:
                raise httpx.RemoteProtocolError("cut")

    async def aclose(self) -> None:
        await self._inner.aclose()


async def test_stream_of_200_events_cut_everywhere_is_whole_and_in_order(house: House) -> None:
    """Cuts come in the middle of frames too: what was not whole is fetched again, what was is not."""
    cutter = Cutter()
    async with AsyncClient(house.url, transport=cutter, jitter=lambda: 0.0) as client:
        accepted = await house.submit()
        async with asyncio.TaskGroup() as group:
            group.create_task(work(house, accepted["task_id"], accepted["thread_id"], 200))
            seqs = [event["seq"] async for event in client.stream(accepted["task_id"])]
    assert seqs == list(range(1, 204))
    assert cutter.connections > 10


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_frames_are_found_in_pieces_that_end_anywhere(size: int) -> None:
    text = (
        b'retry: 1000\n\nid: e:1\nevent: custom\ndata: {"a":"\xc3\xa9"}\n\nid: e:2\n:hb\n\r\nevent: end\ndata: {}\n\n'
    )
    frames, found = _Frames(), []
    for start in range(0, len(text), size):
        found += list(frames.feed(text[start : start + size]))
    assert found[1:] == [(b"e:1", b"custom", b'{"a":"\xc3\xa9"}'), (b"e:2", b"", b""), (b"", b"end", b"{}")]


async def test_thread_stream_goes_on_over_tasks(house: House, client: AsyncClient) -> None:
    for _ in range(2):
        task = await client.submit("echo", 1, thread_id="t")
        await work(house, task.task_id, "t", 1)
    async with contextlib.aclosing(client.stream_thread("t", since=0)) as events:  # type: ignore[type-var]
        assert [(await anext(events))["seq"] for _ in range(8)] == list(range(1, 9))


class LosesAnswers(httpx.AsyncBaseTransport):
    """A network that delivers each request and loses the first two answers."""

    def __init__(self) -> None:
        self._inner = httpx.AsyncHTTPTransport()
        self.lost = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await self._inner.handle_async_request(request)
        if self.lost < 2:
            self.lost += 1
            await response.aread()
            raise httpx.ReadError("the answer is lost")
        return response

    async def aclose(self) -> None:
        await self._inner.aclose()


async def test_submission_whose_answer_is_lost_is_repeated_and_not_doubled(house: House) -> None:
    network = LosesAnswers()
    async with AsyncClient(house.url, transport=network, jitter=lambda: 0.0) as client:
        task = await client.submit("echo", 1)
        page = await client.list()
    assert network.lost == 2
    assert [found.task_id for found in page.tasks] == [task.task_id]


async def test_answer_resumes_an_interrupted_task(house: House, client: AsyncClient) -> None:
    task = await client.submit("echo", 1)
    lease = await house.claim({"task_id": task.task_id, "thread_id": task.thread_id})
    await house.store.pause(lease, [Interrupt("q", {"ask": "?"})], "c")
    waiting = await client.wait(task.task_id, timeout=5)
    assert (waiting.status, waiting.interrupts[0].value) == ("interrupted", {"ask": "?"})
    with pytest.raises(BadRequest) as caught:
        await client.answer(task.task_id, responses={"other": 1})
    assert caught.value.errors[0]["pointer"] == "/responses"
    assert (await client.answer(task.task_id, "yes")).status == "queued"
    assert (await client.cancel(task.task_id)).status == "cancelled"


async def test_errors_are_types_that_hold_the_problem(house: House, client: AsyncClient) -> None:
    with pytest.raises(Missing):
        await client.get("nobody")
    with pytest.raises(Missing, match="no graph"):
        await client.submit("nope", 1)
    with pytest.raises(BadRequest) as bad:
        await client.submit("echo", 1, thread_id="a}b")
    assert bad.value.errors[0]["pointer"] == "/thread_id"
    await client.submit("echo", 1, thread_id="t")
    with pytest.raises(Refused) as busy:
        await client.submit("echo", 1, thread_id="t", multitask="reject")
    assert busy.value.reason == "thread_busy"
    with pytest.raises(Missing):
        _ = [event async for event in client.stream("nobody")]


async def test_keys_are_sent(house: House) -> None:
    async with open_house(keys=parse_api_keys("a-long-secret")) as locked:
        async with AsyncClient(locked.url) as nobody:
            with pytest.raises(AccessDenied):
                await nobody.list()
        async with AsyncClient(locked.url, api_key="a-long-secret") as client:
            assert (await client.list()).tasks == []


async def test_absent_gateway_is_unreachable_after_the_clients_patience() -> None:
    async with AsyncClient("http://127.0.0.1:9", patience_s=0.01, jitter=lambda: 0.0) as client:
        with pytest.raises(Unreachable, match="GET /v1/tasks/x"):
            await client.get("x")
        with pytest.raises(Unreachable):
            _ = [event async for event in client.stream("x")]


async def test_waiting_too_long_tells_how_the_task_stood(client: AsyncClient) -> None:
    task = await client.submit("echo", 1)
    with pytest.raises(WaitedTooLong, match="queued") as caught:
        await client.wait(task.task_id, timeout=0.05)
    assert isinstance(caught.value.task, TaskInfo)


async def test_threads_state_artifacts_graphs_and_workers(house: House, client: AsyncClient) -> None:
    made = await client.create_thread("t", metadata={"a": 1}, graph="echo")
    assert (made.thread_id, (await client.thread("t")).metadata) == ("t", {"a": 1})
    await client.update_state("t", {"n": 5}, as_node="one")
    assert (await client.state("t"))["values"] == {"n": 5}
    point = (await client.checkpoints("t"))["checkpoints"][0]["checkpoint_id"]
    assert (await client.state("t", point))["next"] == ["two"]
    copied = await client.fork("t")
    assert {thread.thread_id for thread in (await client.threads()).threads} == {"t", copied["thread_id"]}
    task = await client.submit("echo", 1, thread_id="t")
    lease = await house.claim({"task_id": task.task_id, "thread_id": "t"})
    await house.store.put_artifact(lease, "a b/ü.csv", "text/csv", b"1,2", 1)
    assert [found.name for found in await client.artifacts(task.task_id)] == ["a b/ü.csv"]
    assert await client.artifact(task.task_id, "a b/ü.csv") == b"1,2"
    await house.store.succeed(lease, b"1")
    await client.delete(task.task_id)
    await client.delete_thread("t")
    assert await client.graphs() == ["broken", "echo", "train"]
    assert (await client.graph("train"))["tier"] == "gpu"
    assert await client.workers() == []
    with pytest.raises(Missing):
        await client.kill_worker("w")


async def test_the_sync_client_does_the_same(house: House) -> None:
    accepted = await house.submit()

    def use() -> tuple[list[int], TaskInfo]:
        with Client(house.url) as client:
            mine = client.submit("echo", {"n": 2}, idempotency_key="k")
            assert client.submit("echo", {"n": 2}, idempotency_key="k") == mine
            client.cancel(mine.task_id)
            seqs = [event["seq"] for event in client.stream(accepted["task_id"])]
            return seqs, client.wait(accepted["task_id"], timeout=10)

    async with asyncio.TaskGroup() as group:
        using = group.create_task(anyio.to_thread.run_sync(use))
        group.create_task(work(house, accepted["task_id"], accepted["thread_id"], 3))
    seqs, done = using.result()
    assert seqs == list(range(1, 7))
    assert done.result == {"answer": 42}
