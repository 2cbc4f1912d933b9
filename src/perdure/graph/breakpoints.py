"""Finds the breakpoints at which a graph must wait; the task's record, not LangGraph, says which were passed.

LangGraph walks past the next breakpoint at every entry, whoever died in between. So before each entry, and after each
stop, the checkpoint itself is asked what comes next and what just ran.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final, Literal

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointTuple
from langgraph.constants import TAG_HIDDEN
from langgraph.pregel import Pregel
from langgraph.types import Send, StateSnapshot

from perdure.errors import GraphError
from perdure.lifecycle.task import Interrupt

ID_MAX: Final = 120
_SENDS: Final = "__pregel_tasks"

Nodes = Collection[str] | Literal["*"]
AnyGraph = Pregel[Any, Any, Any, Any]


class Breakpoints:
    """The author's breakpoints and the request's, for one graph."""

    def __init__(self, graph: AnyGraph, before: Iterable[str] = (), after: Iterable[str] = ()) -> None:
        """Raises GraphError if the request names a node that the graph does not have."""
        before, after = list(before), list(after)
        unknown = sorted({*before, *after} - {*graph.nodes, "*"})
        if unknown:
            known = ", ".join(name for name in graph.nodes if not name.startswith("__"))
            raise GraphError(f"interrupt_before/interrupt_after: the graph has no node {unknown[0]!r}; it has: {known}")
        self._graph = graph
        self.before = _union(graph.interrupt_before_nodes, before)
        self.after = _union(graph.interrupt_after_nodes, after)
        self.inside = any(
            inner.interrupt_before_nodes or inner.interrupt_after_nodes
            for _, inner in graph.get_subgraphs(recurse=True)
            if isinstance(inner, Pregel)
        )

    @property
    def any(self) -> bool:
        return bool(self.before or self.after or self.inside)

    async def due(
        self, snapshot: StateSnapshot, saver: BaseCheckpointSaver[Any], passed: Collection[str]
    ) -> list[Interrupt]:
        """The breakpoints that hold the graph at this state. `snapshot` needs its subgraphs if `inside`."""
        return await _due(self._graph, snapshot, self.before, self.after, saver, passed)


def unknown_stop(snapshot: StateSnapshot, passed: Collection[str]) -> Interrupt:
    """LangGraph stopped at a breakpoint that cannot be found: in a graph that a node calls by itself. The question
    names the node; its number keeps the second such stop at one checkpoint apart from the first."""
    node = snapshot.next[0]
    return _question(_checkpoint_id(snapshot), node, "inside", (), suffix=f"-{len(passed)}")


def _union(own: Nodes | Sequence[str], asked: Sequence[str]) -> Nodes:
    if own == "*" or "*" in asked:
        return "*"
    return sorted({*own, *asked})


async def _due(
    graph: AnyGraph,
    snapshot: StateSnapshot,
    before: Nodes,
    after: Nodes,
    saver: BaseCheckpointSaver[Any],
    passed: Collection[str],
) -> list[Interrupt]:
    if not snapshot.next:
        # Nothing is left to hold back.
        return []
    checkpoint_id = _checkpoint_id(snapshot)
    namespace = _namespace(snapshot.config)
    asked = {checkpoint_id}
    if (snapshot.metadata or {}).get("source") == "fork" and snapshot.parent_config:
        # A fork is a copy of the checkpoint that was approved.
        asked.add(snapshot.parent_config["configurable"]["checkpoint_id"])
    found: dict[str, Interrupt] = {}
    for node in snapshot.next:
        if _guarded(graph, node, before):
            found[node] = _question(checkpoint_id, node, "before", namespace)
    if after and (snapshot.metadata or {}).get("source") == "loop":
        for node in sorted(await _ran(graph, snapshot, saver)):
            if _guarded(graph, node, after):
                found.setdefault(node, _question(checkpoint_id, node, "after", namespace))
    due = [question for node, question in found.items() if not any(f"{at}:{node}" in passed for at in asked)]
    inner_graphs = dict(graph.get_subgraphs())
    for task in snapshot.tasks:
        inner = inner_graphs.get(task.name)
        if isinstance(inner, Pregel) and isinstance(task.state, StateSnapshot):
            due += await _due(
                inner,
                task.state,
                _union(inner.interrupt_before_nodes, ()),
                _union(inner.interrupt_after_nodes, ()),
                saver,
                passed,
            )
    return due


async def _ran(graph: AnyGraph, snapshot: StateSnapshot, saver: BaseCheckpointSaver[Any]) -> set[str]:
    """The nodes whose step made this checkpoint: those that saw their triggers since its parent, and the parent's
    `Send`s, which have none."""
    here = await saver.aget_tuple(_address(snapshot.config))
    parent = await saver.aget_tuple(_address(snapshot.parent_config)) if snapshot.parent_config else None
    if here is None:
        return set()
    seen, seen_before = _seen(here), _seen(parent)
    ran = {node for node, versions in seen.items() if node in graph.nodes and versions != seen_before.get(node)}
    sends = parent.checkpoint["channel_values"].get(_SENDS) or () if parent else ()
    return ran | {send.node for send in sends if isinstance(send, Send)}


def _seen(saved: CheckpointTuple | None) -> Mapping[str, Mapping[str, Any]]:
    return saved.checkpoint["versions_seen"] if saved else {}


def _guarded(graph: AnyGraph, node: str, nodes: Nodes) -> bool:
    if nodes != "*":
        return node in nodes
    known = graph.nodes.get(node)
    return known is None or TAG_HIDDEN not in (known.tags or ())


def _question(
    checkpoint_id: str,
    node: str,
    when: Literal["before", "after", "inside"],
    namespace: Sequence[str],
    suffix: str = "",
) -> Interrupt:
    text = f"bp-{checkpoint_id}-{node}{suffix}"
    if len(text) > ID_MAX:
        text = f"bp-{checkpoint_id}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    value = {"breakpoint": node, "checkpoint_id": checkpoint_id, "when": when}
    return Interrupt(id=text, value=value, namespace=list(namespace), breakpoint=node)


def _checkpoint_id(snapshot: StateSnapshot) -> str:
    return str(snapshot.config["configurable"]["checkpoint_id"])


def _namespace(config: RunnableConfig) -> list[str]:
    namespace = config["configurable"].get("checkpoint_ns", "")
    return namespace.split("|") if namespace else []


def _address(config: RunnableConfig) -> RunnableConfig:
    at = config["configurable"]
    return {"configurable": {key: at[key] for key in ("thread_id", "checkpoint_ns", "checkpoint_id") if key in at}}
