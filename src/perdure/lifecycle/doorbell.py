"""The address of a task, and the doorbell that tells a tier that it waits."""

from __future__ import annotations

from typing import NamedTuple

from perdure.lifecycle.ids import TaskId, Tenant, ThreadId
from perdure.lifecycle.task import Priority


class ThreadRef(NamedTuple):
    """Where a thread lives."""

    tenant: Tenant
    thread_id: ThreadId


class TaskRef(NamedTuple):
    """Where a task lives: all keys of a thread, its tasks included, share one slot of the store."""

    tenant: Tenant
    thread_id: ThreadId
    task_id: TaskId

    @property
    def thread(self) -> ThreadRef:
        return ThreadRef(self.tenant, self.thread_id)


class Doorbell(NamedTuple):
    """What a broker carries: which task waits, for which tier, in which class."""

    ref: TaskRef
    tier: str
    priority: Priority

    def encode(self) -> str:
        """Ids hold no `/`, so the parts can be told apart."""
        return "/".join((*self.ref, self.tier, self.priority))

    @classmethod
    def decode(cls, text: str) -> Doorbell:
        """Raises ValueError for what `encode` did not make."""
        tenant, thread_id, task_id, tier, priority = text.split("/")
        return cls(TaskRef(Tenant(tenant), ThreadId(thread_id), TaskId(task_id)), tier, Priority(priority))
