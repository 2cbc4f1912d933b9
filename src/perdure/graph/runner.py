"""Drives one attempt of a task: enters the graph where it stands, runs its steps, and says how it ended."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from importlib.util import find_spec
from typing import Any, Final, TypeAlias

import msgspec
import orjson
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.errors import GraphDrained, InvalidUpdateError
from langgraph.pregel import Pregel
from langgraph.runtime import RunControl
from langgraph.store.base import BaseStore
from langgraph.types import StateSnapshot

from perdure.checkpoint.strict import UndeclaredType
from perdure.clock import Clock
from perdure.errors import DependencyError, GraphError, LeaseLost, NotFound
from perdure.graph import plain
from perdure.graph.author import Attempt, current_attempt
from perdure.graph.breakpoints import Breakpoints, unknown_stop
from perdure.graph.command import MARK_KEY
from perdure.graph.entry import Entry, find_entry, questions, thread_config
from perdure.graph.event_log import EventLog
from perdure.graph.exits import contain_exits
from perdure.graph.failure import node_of, task_error
from perdure.graph.outcome import Drained, Failed, Finished, Outcome, Paused
from perdure.graph.registry import GraphRegistry
from perdure.graph.tags import Tagged, Tagger
from perdure.lifecycle.events import Method, Tag
from perdure.lifecycle.ids import Tenant
from perdure.lifecycle.lease import Lease
from perdure.lifecycle.task import Interrupt, Reason, Task, TaskError
from perdure.store.base import Claim, TaskStore

AnyGraph: TypeAlias = "Pregel[Any, Any, Any, Any]"
Savers: TypeAlias = Callable[[Lease, Callable[[], Awaitable[None]]], BaseCheckpointSaver[Any]]
LongTerm: TypeAlias = Callable[[Tenant], BaseStore]

_MODES: Final = ["values", "updates", "messages", "custom", "tasks", "checkpoints"]
# Newer than the oldest LangGraph that we run on, and missing from the type of modes even where it is there.
if find_spec("langgraph.pregel._tools") is not None:
    _MODES.append("tools")

# What a client may set of a run's config; callbacks and everything else live in this process, not in a request.
_PASSED_ON: Final = ("recursion_limit", "max_concurrency", "tags", "run_name")
# Ours to say: they tell whose checkpoint it is and where it lies.
_RESERVED: Final = frozenset(
    ("thread_id", "checkpoint_id", "checkpoint_ns", "checkpoint_map", "run_id", "perdure", MARK_KEY)
)
_AT_KEY: Final = re.compile(r"At key '([^']+)'")


class GraphRunner:
    """Runs attempts of tasks; one is enough for all slots of a worker.

    `savers(lease, before_put)` gives the attempt's checkpointer, which awaits `before_put` before it stores a
    checkpoint: then the events and artifacts of a finished step are in the store before the step counts as finished.
    `long_term(tenant)` gives the long-term store of the task's tenant.
    """

    def __init__(
        self, registry: GraphRegistry, store: TaskStore, savers: Savers, long_term: LongTerm | None, clock: Clock
    ) -> None:
        self._registry = registry
        self._store = store
        self._savers = savers
        self._long_term = long_term
        self._clock = clock

    async def run(self, claim: Claim, control: RunControl) -> Outcome:
        """Go on with the task until it ends, waits or is drained (`control.request_drain()`).

        What the graph does wrong is an outcome (Failed). Raises LeaseLost and DependencyError (the store stayed away,
        say), after which the attempt is over and the task stands at its last checkpoint; cancellation passes through,
        and what was not flushed is forgotten.
        """
        contain_exits(asyncio.get_running_loop())
        async with EventLog(self._store, claim.lease, self._clock, claim.task.attempt) as log:
            run = _Run(self, claim, control, log)
            token = current_attempt.set(run.author)
            try:
                return await run.outcome()
            finally:
                current_attempt.reset(token)


class _Run:
    """One attempt."""

    def __init__(self, runner: GraphRunner, claim: Claim, control: RunControl, log: EventLog) -> None:
        self._registry = runner._registry
        self._store = runner._store
        self._long_term = runner._long_term(claim.lease.tenant) if runner._long_term is not None else None
        self._clock = runner._clock
        self._claim = claim
        self._task: Task = claim.task
        self._control = control
        self._log = log
        self._saver = runner._savers(claim.lease, self._before_put)
        self._tagger = Tagger()
        self._storing = asyncio.Lock()
        self._step = max(self._task.step, 0)
        self._values: object = None
        self._valued = False
        self._asked_in: dict[str, tuple[str, ...]] = {}
        # Who wrote what since the last checkpoint, and who wrote a key last: to name the culprit of a failure.
        self._writes: list[tuple[str, Mapping[str, Any]]] = []
        self._writers: dict[str, str] = {}
        self.author = Attempt(self._task.task_id)

    async def outcome(self) -> Outcome:
        try:
            loaded = await self._registry.load(self._task.spec.graph)
            config = self._config()
            context = _json(self._task.spec.context)
            async with loaded.opened(config, self._long_term, context) as graph:
                self._saver = loaded.bind(self._saver, graph)
                own: dict[str, Any] = {"checkpointer": self._saver}
                if self._long_term is not None:
                    own["store"] = self._long_term
                return await self._drive(graph.copy(own), config, context)
        except GraphDrained:
            await self._store_artifacts()
            await self._log.flush()
            return Drained()
        except (LeaseLost, DependencyError):
            raise
        except Exception as error:  # noqa: BLE001 - whatever the author's code raises is the task's failure
            await self._store_artifacts()
            told, reason = self._failure(error)
            return Failed(told, reason, await self._log.take())

    # --- the way through the graph
    async def _drive(self, graph: AnyGraph, config: RunnableConfig, context: object) -> Outcome:
        breakpoints = Breakpoints(graph, self._task.spec.interrupt_before, self._task.spec.interrupt_after)
        began = self._clock.monotonic()
        entry = await find_entry(self._task, graph, self._saver, breakpoints)
        if entry.snapshot is not None:
            self._step = int((entry.snapshot.metadata or {}).get("step", -1)) + 1
        if self._claim.lost_worker is not None:
            self._tell_recovery(entry, began)
        if entry.held and entry.snapshot is not None:
            return await self._paused(entry.held, entry.snapshot)
        if entry.checkpoint_id is not None:
            config["configurable"]["checkpoint_id"] = entry.checkpoint_id
        if entry.mark is not None:
            config["metadata"][MARK_KEY] = entry.mark
        stopped = await self._stream(graph, entry.input, config, context, breakpoints)
        if not stopped:
            return await self._finished(graph)
        snapshot = await graph.aget_state(thread_config(self._task), subgraphs=breakpoints.inside)
        waiting = questions(snapshot, self._asked_in)
        if not waiting and not snapshot.next:
            return await self._finished(graph)
        if not waiting:
            waiting = await breakpoints.due(snapshot, self._saver, self._task.passed)
        return await self._paused(waiting or [unknown_stop(snapshot, self._task.passed)], snapshot)

    async def _stream(
        self, graph: AnyGraph, entry: object, config: RunnableConfig, context: object, breakpoints: Breakpoints
    ) -> bool:
        """Run until the graph ends or stops; True if it stopped at a question or a breakpoint."""
        stopped = False
        log, events = self._log, self._tagger.events
        parts = graph.astream(  # type: ignore[call-overload]
            entry,
            config,
            context=context,
            stream_mode=_MODES,
            subgraphs=True,
            version="v2",
            durability="sync",
            control=self._control,
            interrupt_before=breakpoints.before or None,
            interrupt_after=breakpoints.after or None,
        )
        async with aclosing(parts) as stream:
            async for part in stream:
                kind = part["type"]
                for event in events(part):
                    log.put(event, self._step)
                if kind == "checkpoints" or kind == "values" or kind == "updates":
                    stopped |= self._note(kind, part["ns"], part["data"])
                if log.full:
                    await log.room()
        for event in self._tagger.close():
            log.put(event, self._step)
        return stopped

    def _note(self, kind: str, namespace: tuple[str, ...], data: Any) -> bool:
        """Remember what the outcome will need; True for a stop."""
        if kind == "updates":
            if "__interrupt__" in data:
                for asked in data["__interrupt__"]:
                    self._asked_in.setdefault(asked.id, namespace)
                return not namespace
            for node, update in data.items():
                for written in update if isinstance(update, list) else [update]:
                    if isinstance(written, Mapping):
                        self._writes.append((node, written))
                        if not namespace:
                            self._writers.update(dict.fromkeys(written, node))
                    elif written is not None:
                        self._writes.append((node, {"": written}))
        elif not namespace:
            if kind == "values":
                self._values, self._valued = data, True
            else:
                self._step = int(data["metadata"].get("step", -1)) + 1
                self._writes.clear()
        return False

    # --- how it ended
    async def _finished(self, graph: AnyGraph) -> Outcome:
        await self._store_artifacts()
        if not self._valued:
            self._values = (await graph.aget_state(thread_config(self._task))).values
        result = _output(graph, self._values)
        try:
            encoded = plain.encode_strictly(result)
        except plain.Unserializable as error:
            key = re.split(r"[.\[]", error.path, maxsplit=1)[0]
            node = self._writers.get(key)
            by = f", returned by node {node!r}" if node else ""
            message = f"result key {key!r}{by}: {error}; return JSON, messages, pydantic models or dataclasses"
            told = TaskError("Unserializable", plain.well_formed(message), node=node)
            return Failed(told, Reason.UNSERIALIZABLE, await self._log.take())
        return Finished(encoded, await self._log.take())

    async def _paused(self, interrupts: Sequence[Interrupt], snapshot: StateSnapshot) -> Outcome:
        await self._store_artifacts()
        for asked in interrupts:
            if asked.id not in self._asked_in:
                data = {"interrupt_id": asked.id, "payload": asked.value}
                told = Tagged(
                    Method.INPUT_REQUESTED, Tag.INPUT_REQUIRED, tuple(asked.namespace), asked.breakpoint, data
                )
                self._log.put(told, self._step)
        checkpoint_id = str(snapshot.config["configurable"]["checkpoint_id"])
        return Paused(interrupts, checkpoint_id, await self._log.take())

    def _failure(self, error: Exception) -> tuple[TaskError, str]:
        nodes: list[str] = []
        if isinstance(error, GraphError | NotFound):
            return TaskError(type(error).__name__, plain.well_formed(str(error))), Reason.GRAPH_ERROR
        if isinstance(error, InvalidUpdateError) and (match := _AT_KEY.match(str(error))):
            nodes = sorted({node for node, written in self._writes if match.group(1) in written})
        elif node_of(error) is None or isinstance(error, UndeclaredType) or "serializable" in str(error):
            # No node raised it, or a subgraph's checkpoint did: it may be what a node returned.
            culprit = self._unserializable()
            if culprit is not None:
                node, key, why = culprit
                where = f"key {key!r} of node {node!r}" if key else f"what node {node!r} returned"
                message = f"{where} cannot be stored in a checkpoint: {why}"
                return TaskError("Unserializable", plain.well_formed(message), node=node), Reason.UNSERIALIZABLE
        return task_error(error, nodes=nodes), Reason.GRAPH_ERROR

    def _unserializable(self) -> tuple[str, str, str] | None:
        """The node and key of the first write of the step that the saver cannot store."""
        for node, written in self._writes:
            for key, value in written.items():
                try:
                    self._saver.serde.dumps_typed(value)
                except UndeclaredType as error:
                    return node, key, str(error)
                except Exception as error:  # noqa: BLE001 - serializers raise what they like; any of it is the answer
                    return node, key, f"{type(value).__qualname__} ({error}); keep plain data in the state"
        return None

    # --- before and beside the graph
    def _config(self) -> RunnableConfig:
        spec = self._task.spec
        asked = _json(spec.config)
        asked = asked if isinstance(asked, dict) else {}
        config: dict[str, Any] = {key: asked[key] for key in _PASSED_ON if key in asked}
        config["configurable"] = {
            **_allowed(asked.get("configurable")),
            "thread_id": spec.thread_id,
            "checkpoint_ns": "",
        }
        # LangGraph goes on with a run, instead of starting it anew, by this id: it is the same in every attempt.
        config["metadata"] = {**_allowed(asked.get("metadata")), "run_id": spec.task_id}
        return config  # type: ignore[return-value]

    def _tell_recovery(self, entry: Entry, began: float) -> None:
        """The first event of an attempt that took over from a lost one."""
        head = entry.head if entry.ours else None
        superseded = self._claim.superseded
        data = {
            "name": "recovery",
            "attempt": self._task.attempt,
            "from_checkpoint": head.checkpoint["id"] if head else None,
            "superseded": list(superseded) if superseded else None,
            "dead_worker": self._claim.lost_worker,
            "new_worker": self._claim.lease.worker,
            "rehydrated": {
                "step": (head.metadata or {}).get("step") if head else None,
                "next": list(entry.snapshot.next) if head and entry.snapshot else [],
                "channels": len(head.checkpoint["channel_values"]) if head else 0,
                "ms": round((self._clock.monotonic() - began) * 1000, 2),
            },
        }
        self._log.put(Tagged(Method.CUSTOM, Tag.RECOVERY, (), None, data), self._step)

    async def _before_put(self) -> None:
        await self._store_artifacts()
        await self._log.flush()

    async def _store_artifacts(self) -> None:
        async with self._storing:
            waiting = self.author.artifacts
            while waiting:
                new = waiting[0]
                stored = await self._store.put_artifact(
                    self._claim.lease, new.name, new.media_type, new.data, self._step
                )
                waiting.pop(0)
                data = {"name": "artifact", "artifact": msgspec.to_builtins(stored)}
                self._log.put(Tagged(Method.CUSTOM, Tag.NODE, (), None, data), self._step)


def _json(raw: msgspec.Raw | None) -> Any:
    return None if raw is None else orjson.loads(bytes(raw))


def _allowed(asked: object) -> dict[str, Any]:
    if not isinstance(asked, dict):
        return {}
    return {key: value for key, value in asked.items() if key not in _RESERVED and not key.startswith("__")}


def _output(graph: AnyGraph, values: object) -> object:
    """The state's output keys; what is streamed is the whole state."""
    keys = graph.output_channels
    if isinstance(keys, str) or not isinstance(values, dict):
        return values
    return {key: values[key] for key in keys if key in values}
