"""A deployment in one process for tests of the graph's part: memory store, shared checkpoints, attempts by hand."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec
import orjson
import pytest
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import ChannelVersions, Checkpoint, CheckpointMetadata
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.runtime import RunControl

from perdure.clock import SystemClock
from perdure.graph.outcome import Drained, Failed, Finished, Outcome, Paused
from perdure.graph.registry import GraphRegistry
from perdure.graph.runner import GraphRunner
from perdure.lifecycle.doorbell import TaskRef
from perdure.lifecycle.ids import DEFAULT_TENANT, TaskId, ThreadId, WorkerId
from perdure.lifecycle.lease import Lease
from perdure.lifecycle.task import Task, TaskSpec
from perdure.store.base import Claim
from perdure.store.memory import MemoryStore


class AttemptSaver(InMemorySaver):
    """A checkpointer over the thread's shared memory that keeps the promise to await `before_put`."""

    def __init__(self, shared: InMemorySaver, before_put: Callable[[], Awaitable[None]]) -> None:
        super().__init__(serde=shared.serde)
        self.storage, self.writes, self.blobs = shared.storage, shared.writes, shared.blobs
        self._before_put = before_put
        self.on_put: Callable[[CheckpointMetadata], None] | None = None
        self.on_writes: Callable[[Sequence[tuple[str, Any]]], None] | None = None

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        if config["configurable"].get("checkpoint_ns"):
            for _ in range(8):
                await asyncio.sleep(0)
        await self._before_put()
        saved = await super().aput(config, checkpoint, metadata, new_versions)
        if self.on_put is not None:
            self.on_put({**metadata, "ns": config["configurable"].get("checkpoint_ns", "")})  # type: ignore[typeddict-unknown-key]
        return saved

    async def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        await super().aput_writes(config, writes, task_id, task_path)
        if self.on_writes is not None:
            self.on_writes(writes)


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

    def __init__(self, graphs: dict[str, Any]) -> None:
        self.clock = SystemClock()
        self.store = MemoryStore(self.clock)
        self.checkpoints = InMemorySaver()
        self.on_put: Callable[[CheckpointMetadata], None] | None = None
        self.on_writes: Callable[[Sequence[tuple[str, Any]]], None] | None = None
        self.runner = GraphRunner(GraphRegistry.of(graphs), self.store, self._saver, None, self.clock)

    def _saver(self, lease: Lease, before_put: Callable[[], Awaitable[None]]) -> AttemptSaver:
        saver = AttemptSaver(self.checkpoints, before_put)
        saver.on_put, saver.on_writes = self.on_put, self.on_writes
        return saver

    async def submit(self, graph: str, input: Any = None, *, thread: str = "t", **more: Any) -> TaskRef:
        task_id = TaskId(self.clock.uuid7())
        for key in ("config", "context", "command"):
            if key in more:
                more[key] = msgspec.Raw(orjson.dumps(more[key]))
        spec = TaskSpec(
            task_id=task_id,
            thread_id=ThreadId(thread),
            graph=graph,
            tier="cpu",
            created_ms=self.clock.now_ms(),
            input=None if input is None else msgspec.Raw(orjson.dumps(input)),
            **more,
        )
        await self.store.create(spec)
        return TaskRef(DEFAULT_TENANT, ThreadId(thread), task_id)

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

    def kill_at(self, condition: Callable[[CheckpointMetadata], bool]) -> asyncio.Event:
        """An event that is set the moment such a checkpoint is stored."""
        reached = asyncio.Event()

        def look(metadata: CheckpointMetadata) -> None:
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


@pytest.fixture
def deploy() -> Callable[..., Deployment]:
    """Make a deployment of graphs by name: `deploy(agent=graph)`."""

    def make(**graphs: Any) -> Deployment:
        return Deployment(graphs)

    return make
