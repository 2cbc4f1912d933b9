"""Stands in front of the store, on the server's side, and tells the referee what each verb did."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from perdure.lifecycle.doorbell import Doorbell, TaskRef, ThreadRef
from perdure.lifecycle.events import Event, NewEvent
from perdure.lifecycle.ids import TaskId, WorkerId
from perdure.lifecycle.lease import Lease
from perdure.lifecycle.task import Interrupt, Reason, Task, TaskError, TaskSpec
from perdure.store.base import Artifact, Claim, Created, Due, Ended
from perdure.store.memory import MemoryStore
from perdure.testing.simulation.referee import Referee
from perdure.testing.simulation.wire import run_now

LOG_MAX = 100_000


class Witness:
    """The verbs that change something; all others are the store's own (`store`)."""

    def __init__(self, store: MemoryStore, referee: Referee) -> None:
        self.store = store
        self._referee = referee
        self._tasks: dict[ThreadRef, list[TaskRef]] = {}

    async def create(self, spec: TaskSpec) -> Created:
        created = await self.store.create(spec)
        ref = TaskRef(spec.tenant, spec.thread_id, spec.task_id)
        if not created.replayed:
            self._tasks.setdefault(ref.thread, []).append(ref)
        self._referee.created(spec, created.replayed, [displaced for displaced, _ in created.displaced])
        return created

    async def claim(self, ref: TaskRef, worker: WorkerId, ttl_ms: int) -> Claim | None:
        claim = await self.store.claim(ref, worker, ttl_ms)
        if claim is not None:
            self._referee.claimed(claim.lease, ref, ttl_ms)
        return claim

    async def renew(self, leases: Sequence[Lease]) -> Sequence[bool]:
        answers = await self.store.renew(leases)
        for lease, kept in zip(leases, answers, strict=True):
            self._referee.renewed(lease, kept)
        return answers

    async def append(self, lease: Lease, events: Sequence[NewEvent], first: int = 0) -> int:
        seq = await self.store.append(lease, events, first)
        self._referee.wrote("events", lease)
        return seq

    async def succeed(self, lease: Lease, result: bytes, events: Sequence[NewEvent] = ()) -> Ended:
        ended = await self.store.succeed(lease, result, events)
        self._referee.ended(lease, ended.task)
        return ended

    async def fail(self, lease: Lease, error: TaskError, reason: str, events: Sequence[NewEvent] = ()) -> Ended:
        ended = await self.store.fail(lease, error, reason, events)
        self._referee.ended(lease, ended.task)
        return ended

    async def pause(
        self, lease: Lease, interrupts: Sequence[Interrupt], checkpoint_id: str, events: Sequence[NewEvent] = ()
    ) -> None:
        await self.store.pause(lease, interrupts, checkpoint_id, events)
        self._referee.paused(lease, interrupts)

    async def give_back(
        self,
        lease: Lease,
        reason: str,
        *,
        tier: str | None = None,
        not_before_ms: int | None = None,
        error: TaskError | None = None,
        cut: bool = False,
    ) -> Doorbell:
        bell = await self.store.give_back(lease, reason, tier=tier, not_before_ms=not_before_ms, error=error, cut=cut)
        self._referee.gave_back(lease)
        return bell

    async def put_artifact(self, lease: Lease, name: str, media_type: str, data: bytes, step: int) -> Artifact:
        made = await self.store.put_artifact(lease, name, media_type, data, step)
        self._referee.wrote("artifact", lease)
        return made

    async def cancel(self, ref: TaskRef, reason: str = Reason.REQUESTED) -> Ended:
        ended = await self.store.cancel(ref, reason)
        self._referee.cancelled(ref, ended.changed)
        return ended

    async def resume(
        self,
        ref: TaskRef,
        *,
        value: Any = msgspec.UNSET,
        responses: Mapping[str, Any] | None = None,
        update: bytes | None = None,
        goto: Sequence[str] = (),
    ) -> Doorbell | None:
        bell = await self.store.resume(ref, value=value, responses=responses, update=update, goto=goto)
        self._referee.answered(ref, await self.store.get(ref))
        return bell

    async def requeue(self, ref: TaskRef) -> Doorbell:
        bell = await self.store.requeue(ref)
        self._referee.requeued(ref)
        return bell

    async def abandon(self, thread: ThreadRef, worker: WorkerId, *, charge: bool = True) -> Doorbell | None:
        bell = await self.store.abandon(thread, worker, charge=charge)
        held = self._referee.held.get(thread)
        task = None
        if held is not None:
            task = await self.store.get(TaskRef(*thread, held.lease.task_id))
        self._referee.abandoned(thread, worker, task, charge=charge)
        return bell

    async def rescue(self, due: Due) -> Doorbell | None:
        bell = await self.store.rescue(due)
        self._referee.rescued(due.thread, self.tasks_of(due.thread))
        return bell

    # --- what the simulation asks besides
    def commit(self, lease: Lease, checkpoint_id: str, step: int, node: int | None, said: set[str]) -> None:
        """Note a checkpoint as the saver does; `node` is the number of the script's step that it finishes, if any."""
        self.store.note_checkpoint(lease, checkpoint_id, step)
        if node is None:
            self._referee.wrote("checkpoint", lease)
        else:
            self._referee.committed(lease, node, said, self.log_of(ThreadRef(lease.tenant, lease.thread_id)))

    def require(self, lease: Lease, what: str) -> None:
        """Refuse a write of the saver's that has no verb in the memory store. Raises LeaseLost."""
        self.store._held(lease)
        self._referee.wrote(what, lease)

    def tasks_of(self, thread: ThreadRef) -> list[Task]:
        return [run_now(self.store.get(ref)) for ref in self._tasks.get(thread, ())]

    def log_of(self, thread: ThreadRef) -> Sequence[Event]:
        return run_now(self.store.events(thread, 0, LOG_MAX)).events

    def anybody(self, rng: random.Random) -> TaskRef:
        """Any task, rather one that waits behind another of its thread."""
        refs = list(self.refs().values())
        waiting = [ref for ref in refs if ref.task_id in run_now(self.store.thread(ref.thread)).waiting]
        return rng.choice(waiting or refs)

    def refs(self) -> dict[TaskId, TaskRef]:
        return {ref.task_id: ref for refs in self._tasks.values() for ref in refs}
