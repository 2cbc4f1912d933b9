"""What the fault tests share: a client, the file in which the graphs write down what they did, and a watcher."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from perdure.client import AsyncClient
from perdure.testing.faults import DevStack

Event = dict[str, Any]
GRAPHS = Path(__file__).parents[1] / "graphs" / "langgraph.json"


class Trail:
    """What the nodes of a graph wrote down."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __str__(self) -> str:
        return str(self.path)

    @property
    def lines(self) -> list[str]:
        return self.path.read_text().splitlines() if self.path.exists() else []

    @property
    def starts(self) -> Counter[str]:
        return Counter(line.removeprefix("start ") for line in self.lines if line.startswith("start "))

    @property
    def ends(self) -> Counter[str]:
        return Counter(line.removeprefix("end ") for line in self.lines if line.startswith("end "))


class Watcher:
    """Follows a task's stream from its first event and keeps everything that it says."""

    def __init__(self, client: AsyncClient, task_id: str) -> None:
        self.events: list[Event] = []
        self._news = asyncio.Condition()
        self._following = asyncio.create_task(self._follow(client, task_id))

    async def _follow(self, client: AsyncClient, task_id: str) -> None:
        async for event in client.stream(task_id):
            async with self._news:
                self.events.append(event)
                self._news.notify_all()
        async with self._news:
            self._news.notify_all()

    async def until(self, condition: Callable[[Event], bool], timeout_s: float = 20.0) -> Event:
        """The first event that meets the condition, told or still to come."""
        async with asyncio.timeout(timeout_s), self._news:
            seen = 0
            while True:
                for event in self.events[seen:]:
                    if condition(event):
                        return event
                seen = len(self.events)
                if self._following.done():
                    self._following.result()
                    raise AssertionError(f"the stream ended without it; its last words: {self.events[-1]}")
                await self._news.wait()

    async def started(self, node: str, attempt: int | None = None) -> Event:
        """Wait until a node has started."""
        return await self.until(
            lambda event: (
                event["method"] == "tasks"
                and event["params"]["node"] == node
                and event["params"]["data"]["status"] == "started"
                and attempt in (None, event["params"]["attempt"])
            )
        )

    async def status(self, *wanted: str) -> Event:
        """Wait until the task has one of these statuses."""
        return await self.until(
            lambda event: event["method"] == "lifecycle" and event["params"]["data"].get("status") in wanted
        )

    async def end(self, timeout_s: float = 30.0) -> list[Event]:
        """Everything, once the stream has ended; it must be without gap and without double."""
        async with asyncio.timeout(timeout_s):
            await self._following
        numbers = [event["seq"] for event in self.events]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers))), "the stream has a gap or a double"
        return self.events

    @property
    def statuses(self) -> list[str]:
        told = [event["params"]["data"] for event in self.events if event["method"] == "lifecycle"]
        return [data["status"] for data in told if "status" in data]

    def named(self, name: str) -> list[Event]:
        """The custom events of a name."""
        return [
            event for event in self.events
            if event["method"] == "custom" and event["params"]["data"].get("name") == name
        ]  # fmt: skip

    async def aclose(self) -> None:
        self._following.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._following


Watch = Callable[[AsyncClient, str], Watcher]


@pytest.fixture
def trail(tmp_path: Path) -> Trail:
    return Trail(tmp_path / "trail")


@pytest.fixture
async def client(stack: DevStack) -> AsyncIterator[AsyncClient]:
    async with stack.client() as client:
        yield client


@pytest.fixture
async def watch() -> AsyncIterator[Watch]:
    """Opens watchers and closes them with the test."""
    opened: list[Watcher] = []

    def open_watcher(client: AsyncClient, task_id: str) -> Watcher:
        opened.append(Watcher(client, task_id))
        return opened[-1]

    yield open_watcher
    for watcher in opened:
        await watcher.aclose()
