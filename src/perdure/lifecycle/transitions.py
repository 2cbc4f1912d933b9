"""Every transition of a task, in one table. Nowhere else is it decided what may happen to a task.

The Lua functions of the Valkey store receive this very table when they are loaded, and the diagram in
`docs/reference/states.md` is drawn from it.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from perdure.errors import Conflict


class Status(StrEnum):
    """Where a task stands."""

    QUEUED = "queued"
    RUNNING = "running"
    INTERRUPTED = "interrupted"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    DEAD = "dead"


class Verb(StrEnum):
    """What can happen to a task."""

    CLAIM = "claim"  # a worker takes it
    SUCCEED = "succeed"  # the graph ended
    FAIL = "fail"  # the graph raised, or its result cannot be stored
    PAUSE = "pause"  # an interrupt or an author's breakpoint waits for an answer
    GIVE_BACK = "give_back"  # the worker drains, hands over to another tier, or retries later
    LOSE = "lose"  # the worker died or its lease ran out; attempts are left
    BURY = "bury"  # the same, with all attempts used up
    RESUME = "resume"  # an answer came
    CANCEL = "cancel"  # asked for
    SUPERSEDE = "supersede"  # displaced by a later task of its thread
    EXPIRE = "expire"  # its deadline passed
    REQUEUE = "requeue"  # revived by hand from the last checkpoint


_S, _V = Status, Verb
TRANSITIONS: Final[dict[tuple[Status, Verb], Status]] = {
    (_S.QUEUED, _V.CLAIM): _S.RUNNING,
    (_S.QUEUED, _V.CANCEL): _S.CANCELLED,
    (_S.QUEUED, _V.SUPERSEDE): _S.CANCELLED,
    (_S.QUEUED, _V.EXPIRE): _S.FAILED,
    (_S.RUNNING, _V.SUCCEED): _S.SUCCEEDED,
    (_S.RUNNING, _V.FAIL): _S.FAILED,
    (_S.RUNNING, _V.PAUSE): _S.INTERRUPTED,
    (_S.RUNNING, _V.GIVE_BACK): _S.QUEUED,
    (_S.RUNNING, _V.LOSE): _S.QUEUED,
    (_S.RUNNING, _V.BURY): _S.DEAD,
    (_S.RUNNING, _V.CANCEL): _S.CANCELLED,
    (_S.RUNNING, _V.SUPERSEDE): _S.CANCELLED,
    (_S.RUNNING, _V.EXPIRE): _S.FAILED,
    (_S.INTERRUPTED, _V.RESUME): _S.QUEUED,
    (_S.INTERRUPTED, _V.CANCEL): _S.CANCELLED,
    (_S.INTERRUPTED, _V.SUPERSEDE): _S.CANCELLED,
    (_S.INTERRUPTED, _V.EXPIRE): _S.FAILED,
    (_S.FAILED, _V.REQUEUE): _S.QUEUED,
    (_S.DEAD, _V.REQUEUE): _S.QUEUED,
}

TERMINAL: Final = frozenset({Status.SUCCEEDED, Status.FAILED, Status.CANCELLED, Status.DEAD})
LIVE: Final = frozenset(Status) - TERMINAL


def next_status(status: Status, verb: Verb) -> Status | None:
    """The status that `verb` leads to from `status`, or None where it may not happen."""
    return TRANSITIONS.get((status, verb))


def require(status: Status, verb: Verb) -> Status:
    """Like `next_status`, but raises Conflict (reason `status`) where the table has no such transition."""
    after = next_status(status, verb)
    if after is None:
        allowed = ", ".join(sorted(s for s, v in TRANSITIONS if v is verb))
        raise Conflict("status", f"the task is {status}; {verb} is possible only while it is {allowed}")
    return after


def mermaid() -> str:
    """The table as a Mermaid state diagram, for the documentation."""
    edges: dict[tuple[str, str], list[str]] = {}
    for (status, verb), after in TRANSITIONS.items():
        edges.setdefault((status, after), []).append(verb)
    lines = ["stateDiagram-v2", "    [*] --> queued"]
    lines += [f"    {before} --> {after}: {', '.join(verbs)}" for (before, after), verbs in edges.items()]
    lines += [f"    {status} --> [*]" for status in Status if status in TERMINAL]
    return "\n".join(lines) + "\n"
