"""A thread's state: read at any of its checkpoints, corrected, listed as history, copied into a fork."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointTuple
from langgraph.errors import InvalidUpdateError
from langgraph.types import StateSnapshot

from perdure.errors import Conflict, GraphError, InvalidRequest, NotFound
from perdure.gateway.services import AnyGraph, ServedGraph, Services
from perdure.gateway.wire import CheckpointView, StateView
from perdure.graph.plain import encode
from perdure.lifecycle.doorbell import ThreadRef
from perdure.lifecycle.task import Interrupt

ROOT: Final = ""
FORK_MAX: Final = 10_000
Saver = BaseCheckpointSaver[Any]


def saver_of(services: Services, thread: ThreadRef) -> Saver:
    return services.savers(thread.tenant)


def config_of(thread_id: str, checkpoint_id: str | None = None) -> RunnableConfig:
    """The root namespace's newest checkpoint, or that one."""
    place = {"thread_id": thread_id, "checkpoint_ns": ROOT}
    return {"configurable": {**place, "checkpoint_id": checkpoint_id} if checkpoint_id else place}


async def snapshot(services: Services, thread: ThreadRef) -> bytes | None:
    """The newest state as JSON, None if there is none yet."""
    found = await saver_of(services, thread).aget_tuple(config_of(thread.thread_id))
    if found is None:
        return None
    graph = await _graph_of(services, thread)
    if graph is None:
        return encode(_raw_values(found))
    return encode((await _read(graph, saver_of(services, thread), config_of(thread.thread_id))).values)


async def state(services: Services, thread: ThreadRef, checkpoint_id: str | None) -> StateView:
    """The state at a checkpoint, as the thread's graph sees it; without a graph, the stored channels."""
    saver = saver_of(services, thread)
    config = config_of(thread.thread_id, checkpoint_id)
    found = await saver.aget_tuple(config)
    if found is None:
        if checkpoint_id is not None:
            raise NotFound(f"thread {thread.thread_id!r} has no checkpoint {checkpoint_id!r}")
        await services.store.thread(thread)
        empty = msgspec.Raw(b"{}")
        return StateView(thread.thread_id, None, None, None, empty, (), (), empty)
    graph = await _graph_of(services, thread)
    seen = await _read(graph, saver, config) if graph is not None else None
    values: object = _raw_values(found) if seen is None else seen.values
    interrupts = [
        Interrupt(question.id, question.value) for task in (seen.tasks if seen else ()) for question in task.interrupts
    ]
    return StateView(
        thread_id=thread.thread_id,
        checkpoint_id=found.checkpoint["id"],
        parent_checkpoint_id=_id_of(found.parent_config),
        created_at=found.checkpoint["ts"],
        values=msgspec.Raw(encode(values)),
        next=seen.next if seen else (),
        interrupts=msgspec.convert(msgspec.json.decode(encode(interrupts)), list[Interrupt]),
        metadata=msgspec.Raw(encode(found.metadata)),
    )


async def correct(
    services: Services,
    thread: ThreadRef,
    values: Any,
    as_node: str | None,
    checkpoint_id: str | None,
    mark: Mapping[str, str],
) -> str | None:
    """Write a correction as a new checkpoint and return its id. `mark` goes into its metadata.

    Raises Conflict while a task owns the thread, InvalidRequest where the graph does not take the values.
    """
    now = await services.store.thread(thread)
    if now.owner is not None:
        raise Conflict("thread_busy", f"thread {thread.thread_id!r} has the live task {now.owner!r}; cancel it first")
    graph = await _graph_of(services, thread)
    if graph is None:
        raise Conflict("no_graph", f"thread {thread.thread_id!r} has no graph yet; run a task on it first")
    if checkpoint_id is not None:
        # LangGraph takes an unknown checkpoint for an empty one and would write the thread anew on top of it.
        await point(services, thread, checkpoint_id)
    nodes = graph.graph.nodes
    if as_node is not None and as_node not in nodes:
        raise InvalidRequest(("/as_node", f"{as_node!r} is no node; there are: {', '.join(sorted(nodes))}"))
    config = config_of(thread.thread_id, checkpoint_id)
    config["metadata"] = dict(mark)
    bound = graph.graph.copy(update={"checkpointer": graph.bind(saver_of(services, thread))})
    try:
        after = await bound.aupdate_state(config, values, as_node=as_node)
    except (InvalidUpdateError, ValueError, TypeError, KeyError) as error:
        # The author's reducers and schema decide what fits; their refusal is about what the caller sent.
        raise InvalidRequest(("/values", f"the graph does not take this: {error}")) from error
    return _id_of(after)


async def history(
    services: Services, thread: ThreadRef, limit: int, before: str | None
) -> tuple[list[CheckpointView], str | None]:
    """Checkpoints of the root graph, newest first, and where to go on."""
    saver = saver_of(services, thread)
    found: list[CheckpointView] = []
    cursor = config_of(thread.thread_id, before) if before else None
    async for entry in saver.alist(config_of(thread.thread_id), before=cursor, limit=limit + 1):
        found.append(_view(entry))
    more = len(found) > limit
    return found[:limit], found[limit - 1].checkpoint_id if more else None


async def marked(services: Services, thread: ThreadRef, mark: Mapping[str, str]) -> str | None:
    """The newest checkpoint whose metadata holds `mark`."""
    saver = saver_of(services, thread)
    async for entry in saver.alist(config_of(thread.thread_id), filter=dict(mark), limit=1):
        return entry.checkpoint["id"]
    return None


async def point(services: Services, thread: ThreadRef, checkpoint_id: str | None) -> str | None:
    """The id of the newest checkpoint, None if there is none; or `checkpoint_id`, if there is such a one."""
    found = await saver_of(services, thread).aget_tuple(config_of(thread.thread_id, checkpoint_id))
    if found is None and checkpoint_id is not None:
        raise NotFound(f"thread {thread.thread_id!r} has no checkpoint {checkpoint_id!r}")
    return found.checkpoint["id"] if found is not None else None


async def copy(services: Services, source: ThreadRef, target: ThreadRef, checkpoint_id: str | None) -> None:
    """Copy the state of `source`, up to `checkpoint_id` or whole, into the empty thread `target`."""
    saver = saver_of(services, source)
    graph = await _graph_of(services, source)
    if graph is not None:
        # What is read is written again, so the author's classes must not turn into plain data on the way.
        saver = graph.bind(saver)
    if checkpoint_id is None:
        try:
            await saver.acopy_thread(source.thread_id, target.thread_id)
            return
        except NotImplementedError:
            pass
    # Checkpoint ids grow with time, so all that is not newer, subgraphs' included, is what led to this point.
    entries = [
        entry
        async for entry in saver.alist({"configurable": {"thread_id": source.thread_id}}, limit=FORK_MAX)
        if checkpoint_id is None or entry.checkpoint["id"] <= checkpoint_id
    ]
    for entry in sorted(entries, key=lambda entry: entry.checkpoint["id"]):
        # What ran after the chosen point is left behind; older writes are part of what led to it.
        writes = entry.checkpoint["id"] != checkpoint_id
        await _put(saver, entry, target.thread_id, writes=writes)


async def _put(saver: Saver, entry: CheckpointTuple, thread_id: str, *, writes: bool) -> None:
    place = entry.config["configurable"]
    config: RunnableConfig = {
        "configurable": {
            "thread_id": thread_id,
            "checkpoint_ns": place.get("checkpoint_ns", ROOT),
            "checkpoint_id": _id_of(entry.parent_config),
        }
    }
    stored = await saver.aput(config, entry.checkpoint, entry.metadata, entry.checkpoint["channel_versions"])
    by_task: dict[str, list[tuple[str, Any]]] = {}
    for task_id, channel, value in (entry.pending_writes or ()) if writes else ():
        by_task.setdefault(task_id, []).append((channel, value))
    for task_id, written in by_task.items():
        await saver.aput_writes(stored, written, task_id)


async def _graph_of(services: Services, thread: ThreadRef) -> ServedGraph | None:
    """The thread's graph; None if it has none, or this gateway cannot load it."""
    return await _load(services, (await services.store.thread(thread)).graph)


async def served(services: Services, name: str | None) -> AnyGraph | None:
    """The graph of that name; None if this gateway does not serve it or cannot load it."""
    loaded = await _load(services, name)
    return loaded.graph if loaded is not None else None


async def _load(services: Services, name: str | None) -> ServedGraph | None:
    if name is None or name not in services.registry.names:
        return None
    try:
        return await services.registry.load(name)
    except GraphError:
        return None


async def _read(graph: ServedGraph, saver: Saver, config: RunnableConfig) -> StateSnapshot:
    bound = graph.graph.copy(update={"checkpointer": graph.bind(saver)})
    return await bound.aget_state(config)


def _raw_values(entry: CheckpointTuple) -> dict[str, Any]:
    """The stored channels without LangGraph's own bookkeeping."""
    channels = entry.checkpoint["channel_values"]
    return {name: value for name, value in channels.items() if not name.startswith(("__", "branch:"))}


def _view(entry: CheckpointTuple) -> CheckpointView:
    metadata: Mapping[str, Any] = entry.metadata or {}
    return CheckpointView(
        checkpoint_id=entry.checkpoint["id"],
        parent_checkpoint_id=_id_of(entry.parent_config),
        created_at=entry.checkpoint["ts"],
        step=int(metadata.get("step", 0)),
        source=str(metadata.get("source", "")),
        task_id=metadata.get("run_id"),
    )


def _id_of(config: RunnableConfig | None) -> str | None:
    return config["configurable"].get("checkpoint_id") if config else None
