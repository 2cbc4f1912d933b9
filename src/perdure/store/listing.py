"""Listings: filters and cursors."""

from __future__ import annotations

from collections.abc import Mapping

from perdure.errors import InvalidRequest
from perdure.lifecycle.ids import ThreadId
from perdure.lifecycle.task import Task
from perdure.lifecycle.transitions import Status


def matches(
    task: Task,
    status: Status | None,
    thread_id: ThreadId | None,
    graph: str | None,
    metadata: Mapping[str, str] | None,
) -> bool:
    """Does a task pass the filters of a listing?"""
    return (
        (status is None or task.status is status)
        and (thread_id is None or task.thread_id == thread_id)
        and (graph is None or task.spec.graph == graph)
        and all(str(task.spec.metadata.get(key)) == wanted for key, wanted in (metadata or {}).items())
    )


def thread_cursor(cursor: str) -> tuple[int, str]:
    """The place that a cursor of `list_threads` names."""
    created, _, thread_id = cursor.partition(":")
    if not created.isdigit() or not thread_id:
        raise InvalidRequest(("/cursor", f"{cursor!r} is not a cursor of this listing"))
    return int(created), thread_id
