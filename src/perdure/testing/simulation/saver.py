"""Checkpoints in memory behind the store's fence: for scripts, and as a checkpointer for LangGraph."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from typing import Any, Final, TypeVar

import msgspec
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
)
from langgraph.checkpoint.memory import InMemorySaver

from perdure.checkpoint.saver import worth_keeping
from perdure.errors import StoreUnavailable
from perdure.lifecycle.doorbell import ThreadRef
from perdure.lifecycle.ids import TaskId
from perdure.lifecycle.lease import Lease
from perdure.testing.simulation.wire import Wire
from perdure.testing.simulation.witness import Witness

T = TypeVar("T")
PATIENCE_S: Final = 30.0
RETRY_S: Final = 0.2
TURNS: Final = 8


class Head(msgspec.Struct, frozen=True):
    """Where a thread stands: whose checkpoint it is, how many steps are done, what it was called."""

    task_id: TaskId
    done: int
    checkpoint_id: str


class Memory:
    """What all workers' savers share, at the store's machine."""

    def __init__(self) -> None:
        self.heads: dict[ThreadRef, Head] = {}
        self.known: set[str] = set()
        self.langgraph = InMemorySaver()


class Checkpoints:
    """One attempt's way to the thread's checkpoints. Calls are repeated while the store is away, as the saver's are."""

    def __init__(self, memory: Memory, witness: Witness, wire: Wire, lease: Lease) -> None:
        self.memory = memory
        self.witness = witness
        self.lease = lease
        self._wire = wire
        self._thread = ThreadRef(lease.tenant, lease.thread_id)

    async def patiently(self, what: str, act: Callable[[], Coroutine[Any, Any, T]]) -> T:
        loop = asyncio.get_running_loop()
        until = loop.time() + PATIENCE_S
        while True:
            try:
                return await self._wire.ask(what, act)
            except StoreUnavailable:
                if loop.time() > until:
                    raise
                await asyncio.sleep(RETRY_S)

    async def head(self) -> Head | None:
        async def read() -> Head | None:
            return self.memory.heads.get(self._thread)

        return await self.patiently("head", read)

    async def commit(self, head: Head, said: set[str]) -> None:
        async def write() -> None:
            # A repetition finds its own checkpoint, and an older one that arrives late does not become the head again.
            if head.checkpoint_id in self.memory.known:
                self.witness.require(self.lease, "repeated checkpoint")
                return
            self.witness.commit(self.lease, head.checkpoint_id, head.done, head.done - 1, said)
            self.memory.known.add(head.checkpoint_id)
            self.memory.heads[self._thread] = head

        await self.patiently("commit", write)


class FencedSaver(InMemorySaver):
    """LangGraph's saver over the shared memory, fenced, and awaiting `before_put` as GraphRunner wants it."""

    def __init__(self, checkpoints: Checkpoints, before_put: Callable[[], Awaitable[None]]) -> None:
        shared = checkpoints.memory.langgraph
        super().__init__(serde=shared.serde)
        self.storage, self.writes, self.blobs = shared.storage, shared.writes, shared.blobs
        self._checkpoints = checkpoints
        self._before_put = before_put

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        async def read() -> CheckpointTuple | None:
            return InMemorySaver.get_tuple(self, config)

        return await self._checkpoints.patiently("get_tuple", read)

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        async def read() -> list[CheckpointTuple]:
            return list(InMemorySaver.list(self, config, filter=filter, before=before, limit=limit))

        for found in await self._checkpoints.patiently("list", read):
            yield found

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        await self._say_first()
        at = self._checkpoints
        root = not config["configurable"].get("checkpoint_ns")
        source, step = metadata.get("source"), metadata.get("step", -1)
        memory = at.memory

        async def write() -> RunnableConfig:
            if checkpoint["id"] in memory.known or not root:
                at.witness.require(at.lease, "checkpoint")
            else:
                values = checkpoint["channel_values"]
                done = values.get("done") if source == "loop" and step > 0 else None
                said = set(values.get("said") or ()) if done else set()
                at.witness.commit(at.lease, checkpoint["id"], step, done - 1 if done else None, said)
            memory.known.add(checkpoint["id"])
            return InMemorySaver.put(self, config, checkpoint, metadata, new_versions)

        return await at.patiently("put", write)

    async def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        await self._say_first()
        at, kept = self._checkpoints, worth_keeping(writes)

        async def write() -> None:
            at.witness.require(at.lease, "pending writes")
            InMemorySaver.put_writes(self, config, kept, task_id, task_path)

        await at.patiently("put_writes", write)

    async def _say_first(self) -> None:
        # What a node streams travels for some turns of the event loop before it is in the log.
        for _ in range(TURNS):
            await asyncio.sleep(0)
        await self._before_put()
