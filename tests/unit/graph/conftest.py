"""A deployment in one process for tests of the graph's part: memory store, shared checkpoints, attempts by hand."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import msgspec
import orjson
import pytest
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver, ChannelVersions, Checkpoint, CheckpointMetadata
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.runtime import RunControl

from perdure.checkpoint import ValkeySaver
from perdure.clock import SystemClock
from perdure.graph.outcome import Drained, Failed, Finished, Outcome, Paused
from perdure.graph.registry import GraphRegistry
from perdure.graph.runner import GraphRunner
from perdure.lifecycle.doorbell import TaskRef
from perdure.lifecycle.ids import DEFAULT_TENANT, TaskId, ThreadId, WorkerId
from perdure.lifecycle.lease import Lease
from perdure.lifecycle.task import Task, TaskSpec
from perdure.store.base import Claim, TaskStore
from perdure.store.memory import MemoryStore
from perdure.store.valkey import ValkeyStore
from perdure.valkey.connection import Client

OnPut = Callable[[dict[str, Any]], Awaitable[None]]
OnWrites = Callable[[Sequence[tuple[str, Any]]], None]


class Watched:
    """Lets a test look on whenever a checkpoint or a write was stored."""

    on_put: OnPut | None = None
    on_writes: OnWrites | None = None

    async def aput(self, config: Any, checkpoint: Any, metadata: Any, new_versions: Any) -> Any:
        saved = await super().aput(config, checkpoint, metadata, new_versions)  # type: ignore[misc]
        if self.on_put is not None:
            await self.on_put({**metadata, "ns": config["configurable"].get("checkpoint_ns", "")})
        return saved

    async def aput_writes(self, config: Any, writes: Any, task_id: str, task_path: str = "") -> None:
        await super().aput_writes(config, writes, task_id, task_path)  # type: ignore[misc]
        if self.on_writes is not None:
            self.on_writes(writes)


class PatientMemorySaver(InMemorySaver):
    """LangGraph's own saver over the thread's shared memory, with the promise to await `before_put`."""

    def __init__(self, shared: InMemorySaver, before_put: Callable[[], Awaitable[None]]) -> None:
        super().__init__(serde=shared.serde)
        self.storage, self.writes, self.blobs = shared.storage, shared.writes, shared.blobs
        self._before_put = before_put

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        if config["configurable"].get("checkpoint_ns"):
            # A subgraph's parts travel through its parent's queue.
            for _ in range(8):
                await asyncio.sleep(0)
        await self._before_put()
        return await super().aput(config, checkpoint, metadata, new_versions)


class WatchedMemorySaver(Watched, PatientMemorySaver): ...


class WatchedValkeySaver(Watched, ValkeySaver): ...


@dataclasses.dataclass
class Said:
    """An event as a client sees it, with what tests ask for at hand."""

    method: str
    tag: str
    namespace: list[str]
    node: str | None
    data: Any
    params: dict[str, Any]


class Deployment:
    """Submits tasks, runs attempts, kills them."""

    def __init__(self, graphs: dict[str, Any], client: Client | None) -> None:
        self.clock = SystemClock()
        self.thread_id = f"t-{self.clock.nonce()}"
        self._client = client
        self.store: TaskStore = MemoryStore(self.clock) if client is None else ValkeyStore(client, self.clock, "fsync")
        self._shared = InMemorySaver()
        self.on_put: OnPut | None = None
        self.on_writes: OnWrites | None = None
        self.runner = GraphRunner(GraphRegistry.of(graphs), self.store, self._saver, None, self.clock)

    def _saver(self, lease: Lease, before_put: Callable[[], Awaitable[None]]) -> BaseCheckpointSaver[Any]:
        saver: WatchedMemorySaver | WatchedValkeySaver
        if self._client is None:
            saver = WatchedMemorySaver(self._shared, before_put)
        else:
            saver = WatchedValkeySaver(self._client, lease=lease, before_put=before_put)
        saver.on_put, saver.on_writes = self.on_put, self.on_writes
        return saver

    async def head_id(self) -> str | None:
        """The thread's newest checkpoint."""
        saver = self._shared if self._client is None else ValkeySaver(self._client)
        saved = await saver.aget_tuple({"configurable": {"thread_id": self.thread_id, "checkpoint_ns": ""}})
        return saved and saved.checkpoint["id"]

    async def submit(self, graph: str, input: Any = None, **more: Any) -> TaskRef:
        task_id = TaskId(self.clock.uuid7())
        for key in ("config", "context", "command"):
            if key in more:
                more[key] = msgspec.Raw(orjson.dumps(more[key]))
        spec = TaskSpec(
            task_id=task_id,
            thread_id=ThreadId(self.thread_id),
            graph=graph,
            tier="cpu",
            created_ms=self.clock.now_ms(),
            input=None if input is None else msgspec.Raw(orjson.dumps(input)),
            **more,
        )
        await self.store.create(spec)
        return TaskRef(DEFAULT_TENANT, ThreadId(self.thread_id), task_id)

    async def claim(self, ref: TaskRef, worker: str = "w-a") -> Claim:
        claim = await self.store.claim(ref, WorkerId(worker), 10_000)
        assert claim is not None
        return claim

    async def attempt(self, ref: TaskRef, worker: str = "w-a", control: RunControl | None = None) -> Outcome:
        """Claim the task, run it, and store how that ended, as a worker does."""
        claim = await self.claim(ref, worker)
        outcome = await self.runner.run(claim, control or RunControl())
        match outcome:
            case Finished(result, events):
                await self.store.succeed(claim.lease, result, events)
            case Paused(interrupts, checkpoint_id, events):
                await self.store.pause(claim.lease, interrupts, checkpoint_id, events)
            case Failed(error, reason, events):
                await self.store.fail(claim.lease, error, reason, events)
            case Drained():
                await self.store.give_back(claim.lease, "drain")
        return outcome

    async def killed(self, ref: TaskRef, when: asyncio.Event, worker: str = "w-a") -> None:
        """Run an attempt until the event is set, then lose it without a farewell."""
        claim = await self.claim(ref, worker)
        running = asyncio.create_task(self.runner.run(claim, RunControl()))
        await when.wait()
        running.cancel()
        await asyncio.wait({running})
        await self.store.abandon(ref.thread, WorkerId(worker))

    def kill_at(self, condition: Callable[[dict[str, Any]], bool]) -> asyncio.Event:
        """An event that is set the moment such a checkpoint is stored."""
        reached = asyncio.Event()

        async def look(metadata: dict[str, Any]) -> None:
            if condition(metadata):
                reached.set()

        self.on_put = look
        return reached

    async def task(self, ref: TaskRef) -> Task:
        return await self.store.get(ref)

    async def events(self, ref: TaskRef) -> Sequence[Said]:
        page = await self.store.events(ref.thread, 0, 100_000)
        said = []
        for event in page.events:
            if event.task_id == ref.task_id:
                params = event.decoded()["params"]
                where = params["namespace"]
                said.append(Said(event.method, event.tag, where, params["node"], params["data"], params))
        return said


@pytest.fixture(params=["memory", "valkey"])
def store_url(request: pytest.FixtureRequest) -> str | None:
    """A real server's address, or None for memory. Not async: the server is started in a loop of its own."""
    return str(request.getfixturevalue("valkey").url) if request.param == "valkey" else None


@pytest.fixture
async def deploy(store_url: str | None) -> AsyncIterator[Callable[..., Deployment]]:
    """Make a deployment of graphs by name, `deploy(agent=graph)`: in memory, and on a real server."""
    client = Client(store_url) if store_url is not None else None

    def make(**graphs: Any) -> Deployment:
        return Deployment(graphs, client)

    yield make
    if client is not None:
        await client.aclose()
