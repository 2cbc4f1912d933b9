"""The store in one process's memory: the reference for every other backend, and what simulations run on."""

from __future__ import annotations

import asyncio
import bisect
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

import msgspec

from perdure.clock import Clock
from perdure.errors import Conflict, IdempotencyMismatch, LeaseLost, NotFound
from perdure.lifecycle.doorbell import Doorbell, TaskRef, ThreadRef
from perdure.lifecycle.events import Event, NewEvent, lifecycle_event
from perdure.lifecycle.ids import TaskId, Tenant, ThreadId, Token, WorkerId
from perdure.lifecycle.lease import Lease
from perdure.lifecycle.task import Interrupt, Multitask, Priority, Reason, Task, TaskError, TaskSpec
from perdure.lifecycle.transitions import LIVE, TERMINAL, Status, Verb, next_status, require
from perdure.store.answers import answers_to, passed_with
from perdure.store.base import (
    IDEMPOTENCY_MS,
    RING_AGAIN_MS,
    Artifact,
    Claim,
    Created,
    Due,
    Ended,
    EventFeed,
    EventPage,
    Finding,
    TaskStore,
    Thread,
    WorkerInfo,
)
from perdure.store.listing import matches, thread_cursor
from perdure.store.wakeups import WakeUps


class _Thread:
    """All that is known of one thread."""

    def __init__(self, ref: ThreadRef, now_ms: int, epoch: str) -> None:
        self.ref = ref
        self.created_ms = self.updated_ms = now_ms
        self.epoch = epoch
        self.events: list[Event] = []
        self.metadata: dict[str, Any] = {}
        self.graph: str | None = None
        self.owner: TaskId | None = None
        self.queue: list[TaskId] = []
        self.tasks: dict[TaskId, Task] = {}
        self.token = 0
        self.fence = ""
        self.until_ms = 0
        self.ttl_ms = 0
        self.head: str | None = None
        self.head_task: TaskId | None = None
        self.head_seq = 0
        self.lost: tuple[WorkerId | None, int] | None = None
        self.keep_attempt = False
        self.last_task: TaskId | None = None
        self.artifacts: dict[TaskId, list[tuple[Artifact, bytes]]] = defaultdict(list)
        self.look_ms: int | None = None
        self.rings = 0
        self.said = 0

    @property
    def seq(self) -> int:
        return self.events[-1].seq if self.events else 0


class MemoryStore(TaskStore):
    """Everything in dictionaries; every verb runs without awaiting, so each is one atomic step.

    `started_ms` plays the part of the server's start: no lease is taken away within one lease time of it.
    """

    def __init__(self, clock: Clock, *, started_ms: int = 0) -> None:
        self._clock = clock
        self.started_ms = started_ms
        self._threads: dict[ThreadRef, _Thread] = {}
        self._where: dict[TaskId, TaskRef] = {}
        self._reserved: dict[tuple[str, str], tuple[int, str, bytes]] = {}
        self._workers: dict[WorkerId, tuple[int, WorkerInfo]] = {}
        self._bells: dict[ThreadRef, set[Callable[[], None]]] = defaultdict(set)
        self._orders: dict[WorkerId, set[asyncio.Queue[TaskId]]] = defaultdict(set)

    # --- acceptance
    async def create(self, spec: TaskSpec) -> Created:
        known = self._where.get(spec.task_id)
        if known is not None:
            task = self._threads[known.thread].tasks[spec.task_id]
            return Created(task, self._bell_for(self._threads[known.thread], task), replayed=True)
        ref = ThreadRef(spec.tenant, spec.thread_id)
        thread = self._threads.get(ref)
        live = [thread.owner, *thread.queue] if thread and thread.owner else []
        if live and spec.multitask is Multitask.REJECT:
            raise Conflict("thread_busy", f"thread {spec.thread_id!r} has the live task {live[0]!r}")
        if thread is None:
            thread = self._threads[ref] = _Thread(ref, self._clock.now_ms(), self._clock.nonce()[:4])
        displaced: list[tuple[TaskRef, WorkerId | None]] = []
        if live and spec.multitask in (Multitask.INTERRUPT, Multitask.ROLLBACK):
            for task_id in [task_id for task_id in live if task_id is not None]:
                before = thread.tasks[task_id]
                holder = before.worker if before.status is Status.RUNNING else None
                displaced.append((TaskRef(*ref, task_id), holder))
                if spec.multitask is Multitask.ROLLBACK and before.started_ms is not None:
                    thread.head, thread.head_task = before.base_checkpoint_id, None
                self._end(thread, before, Verb.SUPERSEDE, Reason.SUPERSEDED)
        task = Task(
            spec=spec,
            status=Status.QUEUED,
            tier=spec.tier,
            updated_ms=self._clock.now_ms(),
            not_before_ms=spec.not_before_ms,
        )
        thread.graph = spec.graph
        thread.last_task = spec.task_id
        self._where[spec.task_id] = TaskRef(*ref, spec.task_id)
        if thread.owner is None:
            thread.owner = spec.task_id
        else:
            thread.queue.append(spec.task_id)
        task = self._announce(thread, task)
        self._plan(thread)
        return Created(task, self._bell_for(thread, task), displaced)

    async def reserve(self, tenant: Tenant, key: str, fingerprint: str, answer: bytes) -> bytes | None:
        now = self._clock.now_ms()
        kept = self._reserved.get((tenant, key))
        if kept is None or kept[0] <= now:
            self._reserved[tenant, key] = (now + IDEMPOTENCY_MS, fingerprint, answer)
            return None
        if kept[1] != fingerprint:
            raise IdempotencyMismatch(f"the Idempotency-Key {key!r} was used before with another request")
        return kept[2]

    # --- acting under a lease
    async def claim(self, ref: TaskRef, worker: WorkerId, ttl_ms: int) -> Claim | None:
        thread = self._threads.get(ref.thread)
        if thread is None or thread.owner != ref.task_id:
            return None
        task = thread.tasks[ref.task_id]
        after = next_status(task.status, Verb.CLAIM)
        now = self._clock.now_ms()
        if after is None or (task.not_before_ms or 0) > now:
            return None
        thread.token += 1
        nonce = self._clock.nonce()
        lease = Lease(ref.tenant, ref.thread_id, ref.task_id, Token(thread.token), nonce, worker, ttl_ms)
        thread.fence, thread.until_ms, thread.ttl_ms = lease.fence, now + ttl_ms, ttl_ms
        attempt = task.attempt if thread.keep_attempt else task.attempt + 1
        lost, thread.lost, thread.keep_attempt, thread.rings, thread.said = thread.lost, None, False, 0, 0
        first = thread.head_seq + 1 if thread.head_task == ref.task_id else task.first_seq + 1
        superseded = (first, thread.seq) if lost and first <= thread.seq else None
        task = msgspec.structs.replace(
            task,
            status=after,
            attempt=attempt,
            worker=worker,
            reason=None,
            started_ms=task.started_ms or now,
            base_checkpoint_id=thread.head if task.started_ms is None else task.base_checkpoint_id,
            not_before_ms=None,
        )
        task = self._announce(thread, task)
        self._plan(thread)
        return Claim(lease, task, thread.epoch, lost[0] if lost else None, superseded)

    async def renew(self, leases: Sequence[Lease]) -> Sequence[bool]:
        kept = []
        for lease in leases:
            thread = self._threads.get(ThreadRef(lease.tenant, lease.thread_id))
            held = thread is not None and thread.fence == lease.fence
            if thread is not None and held:
                thread.until_ms = self._clock.now_ms() + lease.ttl_ms
            kept.append(held)
        return kept

    async def append(self, lease: Lease, events: Sequence[NewEvent], first: int = 0) -> int:
        thread, _ = self._held(lease)
        if first:
            known = max(0, thread.said - (first - 1))
            thread.said = max(thread.said, first - 1 + len(events))
            events = events[known:]
        return self._append(thread, lease.task_id, events) if events else thread.seq

    async def succeed(self, lease: Lease, result: bytes, events: Sequence[NewEvent] = ()) -> Ended:
        thread, task = self._held(lease)
        self._append(thread, lease.task_id, events)
        return self._end(
            thread, msgspec.structs.replace(task, result=msgspec.Raw(result), error=None), Verb.SUCCEED, None
        )

    async def fail(self, lease: Lease, error: TaskError, reason: str, events: Sequence[NewEvent] = ()) -> Ended:
        thread, task = self._held(lease)
        self._append(thread, lease.task_id, events)
        return self._end(thread, msgspec.structs.replace(task, error=error), Verb.FAIL, reason)

    async def pause(
        self, lease: Lease, interrupts: Sequence[Interrupt], checkpoint_id: str, events: Sequence[NewEvent] = ()
    ) -> None:
        thread, task = self._held(lease)
        self._append(thread, lease.task_id, events)
        self._release(thread)
        task = msgspec.structs.replace(
            task,
            status=require(task.status, Verb.PAUSE),
            interrupts=list(interrupts),
            checkpoint_id=checkpoint_id or task.checkpoint_id,
            update=None,
            goto=[],
        )
        self._announce(thread, task)
        self._plan(thread)

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
        thread, task = self._held(lease)
        self._release(thread)
        thread.lost = (lease.worker, task.attempt) if cut else None
        thread.keep_attempt = tier is not None
        task = msgspec.structs.replace(
            task,
            status=require(task.status, Verb.GIVE_BACK),
            tier=tier or task.tier,
            reason=reason,
            error=error or task.error,
            not_before_ms=not_before_ms,
        )
        self._announce(thread, task)
        self._plan(thread)
        return self._bell(thread, task)

    async def put_artifact(self, lease: Lease, name: str, media_type: str, data: bytes, step: int) -> Artifact:
        thread, task = self._held(lease)
        made = thread.artifacts[lease.task_id]
        artifact = Artifact(str(len(made) + 1), name, media_type, len(data), self._clock.now_ms(), step, task.attempt)
        made.append((artifact, data))
        return artifact

    # --- from outside
    async def cancel(self, ref: TaskRef, reason: str = Reason.REQUESTED) -> Ended:
        thread, task = self._task(ref)
        if task.status in TERMINAL:
            return Ended(task, changed=False)
        return self._end(thread, task, Verb.CANCEL, reason)

    async def resume(
        self,
        ref: TaskRef,
        *,
        value: Any = msgspec.UNSET,
        responses: Mapping[str, Any] | None = None,
        update: bytes | None = None,
        goto: Sequence[str] = (),
    ) -> Doorbell | None:
        thread, task = self._task(ref)
        after = require(task.status, Verb.RESUME)
        answers = answers_to(task, value, responses)
        merged = {**task.answers, **answers}
        passed = passed_with(task, answers)
        left = [question for question in task.interrupts if question.id not in merged]
        task = msgspec.structs.replace(
            task,
            answers=merged,
            passed=passed,
            update=msgspec.Raw(update) if update is not None else task.update,
            goto=list(goto) or task.goto,
            updated_ms=self._clock.now_ms(),
        )
        if left:
            thread.tasks[task.task_id] = task
            return None
        task = msgspec.structs.replace(task, status=after, interrupts=[], reason=Reason.RESUMED)
        self._announce(thread, task)
        self._plan(thread)
        return self._bell(thread, task)

    async def requeue(self, ref: TaskRef) -> Doorbell:
        thread, task = self._task(ref)
        after = require(task.status, Verb.REQUEUE)
        if thread.owner is not None or (thread.head_task or task.task_id) != task.task_id:
            raise Conflict(
                "thread_moved_on",
                f"thread {ref.thread_id!r} has gone on since; fork it from checkpoint {task.checkpoint_id!r} instead",
            )
        thread.owner = task.task_id
        task = msgspec.structs.replace(
            task, status=after, losses=0, suspicions=0, finished_ms=None, reason=Reason.REQUEUED, not_before_ms=None
        )
        self._announce(thread, task)
        self._plan(thread)
        return self._bell(thread, task)

    async def abandon(self, thread: ThreadRef, worker: WorkerId, *, charge: bool = True) -> Doorbell | None:
        record = self._threads.get(thread)
        if record is None or record.owner is None or not record.fence:
            return None
        task = record.tasks[record.owner]
        if task.worker != worker:
            return None
        return self._lose(record, task, Reason.WORKER_LOST, charge=charge)

    async def due(self, limit: int) -> Sequence[Due]:
        now = self._clock.now_ms()
        waiting = [(thread.look_ms, ref) for ref, thread in self._threads.items() if thread.look_ms is not None]
        return [Due(ref, str(look)) for look, ref in sorted(waiting)[:limit] if look <= now]

    async def rescue(self, due: Due) -> Doorbell | None:
        thread = self._threads.get(due.thread)
        if thread is None or thread.owner is None:
            if thread is not None and str(thread.look_ms) == due.mark:
                thread.look_ms = None
            return None
        now = self._clock.now_ms()
        bell = None
        for task in [thread.tasks[task_id] for task_id in (*thread.queue, thread.owner)]:
            if task.spec.deadline_ms is not None and task.spec.deadline_ms <= now:
                error = TaskError("DeadlineExceeded", "the task's deadline passed before it ended")
                late = msgspec.structs.replace(task, error=error)
                bell = self._end(thread, late, Verb.EXPIRE, Reason.DEADLINE).doorbell
        owner = self._threads[due.thread].owner
        if owner is None:
            return None
        task = thread.tasks[owner]
        if thread.fence and thread.until_ms <= now and now - self.started_ms >= thread.ttl_ms:
            bell = self._lose(thread, task, Reason.LEASE_EXPIRED)
        elif next_status(task.status, Verb.CLAIM) and (task.not_before_ms or 0) <= now:
            bell = self._bell(thread, task, Priority.RECOVERY if thread.lost else None)
            thread.rings += 1
        self._plan(thread)
        return bell

    # --- reading
    async def locate(self, task_id: TaskId, tenant: Tenant) -> TaskRef | None:
        ref = self._where.get(task_id)
        return ref if ref is not None and ref.tenant == tenant else None

    async def get(self, ref: TaskRef) -> Task:
        return self._task(ref)[1]

    async def list_tasks(
        self,
        tenant: Tenant,
        *,
        status: Status | None = None,
        thread_id: ThreadId | None = None,
        graph: str | None = None,
        metadata: Mapping[str, str] | None = None,
        limit: int = 20,
        cursor: str | None = None,
    ) -> tuple[Sequence[Task], str | None]:
        found: list[Task] = []
        for task_id in sorted(self._where, reverse=True):
            ref = self._where[task_id]
            if ref.tenant != tenant or (cursor is not None and task_id >= cursor):
                continue
            task = self._threads[ref.thread].tasks[task_id]
            if matches(task, status, thread_id, graph, metadata):
                if len(found) == limit:
                    return found, found[-1].task_id
                found.append(task)
        return found, None

    async def delete_task(self, ref: TaskRef) -> None:
        thread, task = self._task(ref)
        if task.status in LIVE:
            raise Conflict("status", f"the task is {task.status}; cancel it first")
        del thread.tasks[ref.task_id], self._where[ref.task_id]
        thread.artifacts.pop(ref.task_id, None)

    async def thread(self, ref: ThreadRef) -> Thread:
        record = self._threads.get(ref)
        if record is None:
            raise NotFound(f"there is no thread {ref.thread_id!r}")
        return Thread(
            thread_id=ref.thread_id,
            created_ms=record.created_ms,
            updated_ms=record.updated_ms,
            epoch=record.epoch,
            last_seq=record.seq,
            graph=record.graph,
            owner=record.owner,
            waiting=tuple(record.queue),
            metadata=dict(record.metadata),
            checkpoint_id=record.head,
            last_task=record.last_task,
        )

    async def create_thread(self, ref: ThreadRef, metadata: Mapping[str, Any], graph: str | None = None) -> Thread:
        if ref not in self._threads:
            made = self._threads[ref] = _Thread(ref, self._clock.now_ms(), self._clock.nonce()[:4])
            made.metadata, made.graph = dict(metadata), graph
        return await self.thread(ref)

    async def list_threads(
        self, tenant: Tenant, *, limit: int = 20, cursor: str | None = None
    ) -> tuple[Sequence[Thread], str | None]:
        mine = sorted(
            ((thread.created_ms, ref.thread_id) for ref, thread in self._threads.items() if ref.tenant == tenant),
            reverse=True,
        )
        if cursor is not None:
            mine = [entry for entry in mine if entry < thread_cursor(cursor)]
        page = [await self.thread(ThreadRef(tenant, thread_id)) for _, thread_id in mine[:limit]]
        more = len(mine) > limit
        return page, f"{mine[limit - 1][0]}:{mine[limit - 1][1]}" if more else None

    async def delete_thread(self, ref: ThreadRef) -> None:
        record = self._threads.get(ref)
        if record is None:
            raise NotFound(f"there is no thread {ref.thread_id!r}")
        if record.owner is not None:
            raise Conflict("thread_busy", f"thread {ref.thread_id!r} has the live task {record.owner!r}")
        for task_id in record.tasks:
            del self._where[task_id]
        del self._threads[ref]

    async def events(self, thread: ThreadRef, after_seq: int, limit: int = 500) -> EventPage:
        record = self._threads.get(thread)
        if record is None:
            raise NotFound(f"there is no thread {thread.thread_id!r}")
        start = bisect.bisect_right(record.events, after_seq, key=lambda event: event.seq)
        first = record.events[0].seq if record.events else record.seq + 1
        return EventPage(record.epoch, first, record.seq, record.events[start : start + limit])

    @contextlib.asynccontextmanager
    async def follow(self, thread: ThreadRef) -> AsyncIterator[EventFeed]:
        feed = WakeUps()
        self._bells[thread].add(feed.wake)
        try:
            yield feed
        finally:
            self._bells[thread].discard(feed.wake)

    async def artifacts(self, ref: TaskRef) -> Sequence[Artifact]:
        thread, _ = self._task(ref)
        return [artifact for artifact, _ in thread.artifacts.get(ref.task_id, ())]

    async def artifact(self, ref: TaskRef, name: str) -> tuple[Artifact, bytes]:
        thread, _ = self._task(ref)
        for artifact, data in reversed(thread.artifacts.get(ref.task_id, ())):
            if name in (artifact.artifact_id, artifact.name):
                return artifact, data
        raise NotFound(f"task {ref.task_id!r} has no artifact {name!r}")

    # --- the fleet
    async def heartbeat(self, worker: WorkerInfo, ttl_ms: int) -> None:
        now = self._clock.now_ms()
        self._workers[worker.worker_id] = (now + ttl_ms, msgspec.structs.replace(worker, heartbeat_ms=now))

    async def forget_worker(self, worker: WorkerId) -> None:
        self._workers.pop(worker, None)

    async def workers(self) -> Sequence[WorkerInfo]:
        now = self._clock.now_ms()
        return [info for until, info in self._workers.values() if until > now]

    async def tell(self, worker: WorkerId, task_id: TaskId) -> None:
        for queue in self._orders.get(worker, ()):
            queue.put_nowait(task_id)

    @contextlib.asynccontextmanager
    async def orders(self, worker: WorkerId) -> AsyncIterator[AsyncIterator[TaskId]]:
        queue: asyncio.Queue[TaskId] = asyncio.Queue()
        self._orders[worker].add(queue)

        async def told() -> AsyncIterator[TaskId]:
            while True:
                yield await queue.get()

        try:
            yield told()
        finally:
            self._orders[worker].discard(queue)

    # --- the deployment
    async def counts(self) -> Mapping[str, int]:
        tally: dict[str, int] = defaultdict(int)
        for thread in self._threads.values():
            for task in thread.tasks.values():
                if task.status in LIVE:
                    tally[f"{task.tier}/{task.status}"] += 1
        return tally

    async def check(self) -> Sequence[Finding]:
        return [Finding("persistence", False, "everything is lost when this process ends", "use a Valkey store")]

    @property
    def stored(self) -> str:
        return "memory"

    async def ping(self) -> None:
        return None

    async def aclose(self) -> None:
        return None

    # --- what the verbs are made of
    def note_checkpoint(self, lease: Lease, checkpoint_id: str, step: int) -> None:
        """What the saver tells when it stored a checkpoint of the root graph. Raises LeaseLost like any write."""
        thread, task = self._held(lease)
        thread.head, thread.head_task, thread.head_seq = checkpoint_id, lease.task_id, thread.seq
        thread.tasks[lease.task_id] = msgspec.structs.replace(task, step=step, checkpoint_id=checkpoint_id)

    def _task(self, ref: TaskRef) -> tuple[_Thread, Task]:
        thread = self._threads.get(ref.thread)
        task = thread.tasks.get(ref.task_id) if thread else None
        if thread is None or task is None:
            raise NotFound(f"there is no task {ref.task_id!r}")
        return thread, task

    def _held(self, lease: Lease) -> tuple[_Thread, Task]:
        thread = self._threads.get(ThreadRef(lease.tenant, lease.thread_id))
        if thread is None or thread.fence != lease.fence:
            raise LeaseLost(f"task {lease.task_id!r}: another attempt owns it, or it ended")
        return thread, thread.tasks[lease.task_id]

    def _append(self, thread: _Thread, task_id: TaskId, events: Sequence[NewEvent]) -> int:
        seq = thread.seq
        for event in events:
            seq += 1
            thread.events.append(
                Event(thread.epoch, seq, event.method, event.tag, event.namespace, task_id, event.body)
            )
        for wake in tuple(self._bells.get(thread.ref, ())):
            wake()
        return seq

    def _announce(self, thread: _Thread, task: Task) -> Task:
        """Keep the task and tell its status on the stream."""
        now = self._clock.now_ms()
        worker = task.worker if task.status is Status.RUNNING or task.status in TERMINAL else None
        event = lifecycle_event(
            task_id=task.task_id,
            graph=task.spec.graph,
            tier=task.tier,
            status=task.status,
            reason=task.reason,
            error=task.error if task.status in TERMINAL else None,
            timestamp_ms=now,
            step=task.step,
            attempt=task.attempt,
            worker=worker,
        )
        seq = self._append(thread, task.task_id, [event])
        task = msgspec.structs.replace(task, updated_ms=now, first_seq=task.first_seq or seq, last_seq=seq)
        thread.updated_ms = now
        thread.tasks[task.task_id] = task
        return task

    def _release(self, thread: _Thread) -> None:
        thread.fence = ""

    def _end(self, thread: _Thread, task: Task, verb: Verb, reason: str | None) -> Ended:
        after = require(task.status, verb)
        holder = task.worker if task.status is Status.RUNNING else None
        bell = None
        task = msgspec.structs.replace(
            task, status=after, reason=reason, finished_ms=self._clock.now_ms(), interrupts=[], not_before_ms=None
        )
        if thread.owner == task.task_id:
            self._release(thread)
            thread.lost, thread.keep_attempt = None, False
            thread.owner = thread.queue.pop(0) if thread.queue else None
        elif task.task_id in thread.queue:
            thread.queue.remove(task.task_id)
        task = self._announce(thread, task)
        if thread.owner is not None:
            bell = self._bell_for(thread, thread.tasks[thread.owner])
        self._plan(thread)
        return Ended(task, True, holder, bell)

    def _lose(self, thread: _Thread, task: Task, reason: str, *, charge: bool = True) -> Doorbell | None:
        charge = charge or task.spec.max_attempts == 1
        losses, suspicions = task.losses + charge, task.suspicions + (not charge)
        error = TaskError(
            "WorkerLost" if reason == Reason.WORKER_LOST else "LeaseExpired",
            f"attempt {task.attempt} was cut off: worker {task.worker} "
            + ("died" if reason == Reason.WORKER_LOST else "did not renew its lease"),
            worker=task.worker,
        )
        task = msgspec.structs.replace(task, losses=losses, suspicions=suspicions, error=error)
        if losses >= task.spec.max_attempts:
            return self._end(thread, task, Verb.BURY, reason).doorbell
        self._release(thread)
        thread.lost = (task.worker, task.attempt)
        task = msgspec.structs.replace(task, status=require(task.status, Verb.LOSE), reason=reason)
        self._announce(thread, task)
        self._plan(thread)
        return self._bell(thread, task, Priority.RECOVERY)

    def _bell(self, thread: _Thread, task: Task, priority: Priority | None = None) -> Doorbell:
        return Doorbell(TaskRef(*thread.ref, task.task_id), task.tier, priority or task.spec.priority)

    def _bell_for(self, thread: _Thread, task: Task) -> Doorbell | None:
        """The ring for a task that could be claimed now."""
        due = (task.not_before_ms or 0) <= self._clock.now_ms()
        claimable = thread.owner == task.task_id and next_status(task.status, Verb.CLAIM) is not None
        return self._bell(thread, task) if claimable and due else None

    def _plan(self, thread: _Thread) -> None:
        """Set the time of the rescuer's next look."""
        if thread.owner is None:
            thread.look_ms = None
            return
        task, now = thread.tasks[thread.owner], self._clock.now_ms()
        looks = []
        if thread.fence:
            looks.append(max(thread.until_ms, self.started_ms + thread.ttl_ms))
        elif next_status(task.status, Verb.CLAIM):
            # Behind a long backlog a task waits although its ring was not lost, so the next ring waits twice as long.
            again = now + RING_AGAIN_MS * 2 ** min(thread.rings, 6)
            later = task.not_before_ms or 0
            looks.append(later if later > now else again)
        for task_id in (thread.owner, *thread.queue):
            if (deadline_ms := thread.tasks[task_id].spec.deadline_ms) is not None:
                looks.append(deadline_ms)
        thread.look_ms = min(looks) if looks else None
