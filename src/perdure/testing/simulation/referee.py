"""The referee: knows from outside who may do what, watches every step of the store, and says what broke a promise.

It keeps a model of its own of leases, owners, answers and commits, so that it does not lean on the code it judges.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Any

import msgspec

from perdure.lifecycle.doorbell import TaskRef, ThreadRef
from perdure.lifecycle.events import Event, Method
from perdure.lifecycle.ids import TaskId, WorkerId
from perdure.lifecycle.lease import Lease
from perdure.lifecycle.task import Interrupt, Multitask, Task, TaskSpec
from perdure.lifecycle.transitions import TERMINAL, Status
from perdure.testing.simulation.process import Process
from perdure.testing.simulation.script import Script
from perdure.testing.simulation.trace import Trace


class Promise(StrEnum):
    """What must hold in every run."""

    NOT_LOST = "nothing accepted is lost"
    COMES_TO_REST = "every task ends or waits for an answer"
    ENDS_ONCE = "a task ends in exactly one terminal state"
    STAYS_CANCELLED = "a cancelled task stays cancelled"
    COMMITTED_ONCE = "a step is committed exactly once, in order"
    NOT_AGAIN = "a finished step never runs again"
    WHOLE = "a task that succeeded has run all its steps"
    NOT_INTERLEAVED = "tasks of a thread do not interleave"
    BOUNDED = "a task dies when its attempts are used up, not before"
    ONE_HOLDER = "no lease is held by two"
    NOT_TAKEN = "a lease is taken only from the dead, the expired or the ended"
    FENCED = "a superseded holder writes nothing"
    TOKENS_GROW = "tokens of a thread only grow"
    STOPS_IN_TIME = "a holder stops before its lease ends"
    NOT_PASSED = "no breakpoint or question is passed unanswered"
    ANSWERED_ONCE = "an answer goes to its question, once"
    CONTIGUOUS = "a stream is contiguous"
    SAID_ONCE = "an event is stored once"
    SAID_BEFORE = "the events of a committed step are stored"
    FOLLOWED = "a follower sees every event once"
    MADE_ONCE = "an Idempotency-Key makes one task"
    NO_FAULT = "the code raises nothing unforeseen"


class Violation(Exception):
    """A promise was broken."""

    def __init__(self, promise: Promise, detail: str) -> None:
        self.promise = promise
        self.detail = detail
        super().__init__(f"broken: {promise}: {detail}")


class Held(msgspec.Struct):
    """A lease as the referee knows it."""

    lease: Lease
    until_ms: int
    renewed_s: float


class Known(msgspec.Struct):
    """A task as the referee knows it."""

    ref: TaskRef
    script: Script
    max_attempts: int
    status: Status = Status.QUEUED
    losses: int = 0
    started: bool = False
    cancelled: bool = False
    ends: int = 0
    revivals: int = 0
    committed: int = 0
    """How many steps are committed."""
    answers: dict[str, Any] = {}
    questions: list[Interrupt] = []
    approved: set[str] = set()
    used: dict[str, str] = {}
    said: dict[int, set[str]] = {}


class Told(msgspec.Struct):
    """What one client was told on one task's stream."""

    who: str
    ref: TaskRef
    seqs: list[int] = []
    over: bool = False


class Referee:
    """Raises nothing into the code it watches: what it finds is in `broken`, the first thing first."""

    def __init__(self, loop: asyncio.AbstractEventLoop, now_ms: Callable[[], int], trace: Trace) -> None:
        self._loop = loop
        self._now_ms = now_ms
        self._trace = trace
        self.started_ms = 0
        self.broken: list[Violation] = []
        self.tasks: dict[TaskId, Known] = {}
        self.held: dict[ThreadRef, Held] = {}
        self.active: dict[ThreadRef, TaskId] = {}
        self.commits: dict[ThreadRef, list[tuple[TaskId, int]]] = defaultdict(list)
        self.told: list[Told] = []
        self.running: dict[str, tuple[Process, Process]] = {}
        """Attempts whose graph runs now, by fence: the worker's process and its lease keeper's."""
        self.on_change: list[Callable[[Known], None]] = []
        self._tokens: dict[ThreadRef, int] = defaultdict(int)

    def blame(self, promise: Promise, detail: str) -> None:
        self._trace.tell("REFEREE", f"broken: {promise}: {detail}")
        self.broken.append(Violation(promise, detail))

    # --- what the store did
    def created(self, spec: TaskSpec, replayed: bool, displaced: Sequence[TaskRef]) -> None:
        if replayed:
            return
        for ref in displaced:
            self._end(ref, Status.CANCELLED)
            if self.held.get(ref.thread) and self.held[ref.thread].lease.task_id == ref.task_id:
                del self.held[ref.thread]
            if spec.multitask is Multitask.ROLLBACK:
                self.active.pop(ref.thread, None)
        ref = TaskRef(spec.tenant, spec.thread_id, spec.task_id)
        if spec.task_id in self.tasks:
            self.blame(Promise.MADE_ONCE, f"task {spec.task_id} was made twice")
        known = self.tasks[spec.task_id] = Known(ref, Script.of_input(spec.input), spec.max_attempts)
        self._changed(known)

    def claimed(self, lease: Lease, ref: TaskRef, ttl_ms: int) -> None:
        thread, known = ref.thread, self.tasks[ref.task_id]
        if thread in self.held:
            other = self.held[thread].lease
            self.blame(
                Promise.ONE_HOLDER, f"{lease.worker} claimed {_short(ref)} while {other.worker} holds the thread"
            )
        if lease.token <= self._tokens[thread]:
            self.blame(Promise.TOKENS_GROW, f"thread {thread.thread_id}: {lease.token} after {self._tokens[thread]}")
        self._tokens[thread] = max(self._tokens[thread], lease.token)
        if known.cancelled:
            self.blame(Promise.STAYS_CANCELLED, f"{_short(ref)} was claimed after it was cancelled")
        elif known.status is Status.INTERRUPTED:
            self.blame(Promise.NOT_PASSED, f"{_short(ref)} was claimed while it waits for an answer")
        elif known.status is not Status.QUEUED:
            self.blame(Promise.ENDS_ONCE, f"{_short(ref)} was claimed while it is {known.status}")
        owner = self.active.get(thread)
        if owner is not None and owner != ref.task_id and self.tasks[owner].status not in TERMINAL:
            self.blame(Promise.NOT_INTERLEAVED, f"{_short(ref)} was claimed while {_brief(owner)} has begun")
        self.active[thread] = ref.task_id
        known.started = True
        self._set(known, Status.RUNNING)
        self.held[thread] = Held(lease, self._now_ms() + ttl_ms, self._loop.time())

    def renewed(self, lease: Lease, kept: bool) -> None:
        held = self._of(lease)
        if kept and held is None:
            self.blame(Promise.FENCED, f"{lease.worker} renewed its lost lease on {_brief(lease.task_id)}")
        elif not kept and held is not None:
            self.blame(Promise.NOT_TAKEN, f"{lease.worker} was told that its lease on {_brief(lease.task_id)} is gone")
        elif held is not None:
            held.until_ms = self._now_ms() + lease.ttl_ms
            held.renewed_s = self._loop.time()

    def wrote(self, what: str, lease: Lease) -> None:
        """A write under a lease was accepted."""
        if self._of(lease) is None:
            self.blame(Promise.FENCED, f"{lease.worker}'s {what} for {_brief(lease.task_id)} was accepted")

    def committed(self, lease: Lease, step: int, said: set[str], stored: Sequence[Event]) -> None:
        """A checkpoint of a finished step was accepted; `stored` is the thread's log at this moment."""
        self.wrote(f"checkpoint of step {step}", lease)
        thread, known = ThreadRef(lease.tenant, lease.thread_id), self.tasks[lease.task_id]
        if step != known.committed:
            self.blame(
                Promise.COMMITTED_ONCE, f"{_brief(lease.task_id)} committed step {step} after {known.committed} steps"
            )
        known.committed = max(known.committed, step + 1)
        line = self.commits[thread]
        if line and line[-1][0] != lease.task_id and any(task == lease.task_id for task, _ in line):
            self.blame(Promise.NOT_INTERLEAVED, f"{_brief(lease.task_id)} committed after {_brief(line[-1][0])} had")
        line.append((lease.task_id, step))
        there = {mark for event in stored if (mark := mark_of(event)) is not None}
        if missing := said - there:
            self.blame(Promise.SAID_BEFORE, f"{_brief(lease.task_id)} step {step}: {sorted(missing)} are not stored")

    def paused(self, lease: Lease, interrupts: Sequence[Interrupt]) -> None:
        self.wrote("pause", lease)
        known = self.tasks[lease.task_id]
        known.questions = list(interrupts)
        self._release(lease)
        self._set(known, Status.INTERRUPTED)

    def gave_back(self, lease: Lease) -> None:
        self.wrote("give_back", lease)
        self._release(lease)
        self._set(self.tasks[lease.task_id], Status.QUEUED)

    def ended(self, lease: Lease, task: Task) -> None:
        """The holder ended the task."""
        self.wrote(task.status, lease)
        known = self.tasks[lease.task_id]
        if task.status is Status.SUCCEEDED and known.committed != len(known.script.steps):
            self.blame(
                Promise.WHOLE,
                f"{_brief(lease.task_id)} succeeded with {known.committed} of {len(known.script.steps)} steps",
            )
        self._release(lease)
        self._end(known.ref, task.status)

    def cancelled(self, ref: TaskRef, changed: bool) -> None:
        if not changed:
            return
        known = self.tasks[ref.task_id]
        self._end(ref, Status.CANCELLED)
        known.cancelled = True
        held = self.held.get(ref.thread)
        if held is not None and held.lease.task_id == ref.task_id:
            del self.held[ref.thread]

    def answered(self, ref: TaskRef, task: Task) -> None:
        """A resume was accepted; `task` is how it stands after it."""
        known = self.tasks[ref.task_id]
        if known.status is not Status.INTERRUPTED:
            self.blame(Promise.ANSWERED_ONCE, f"{_short(ref)} took an answer while it is {known.status}")
        for asked, answer in task.answers.items():
            if asked in known.answers:
                if known.answers[asked] != answer:
                    self.blame(Promise.ANSWERED_ONCE, f"{_short(ref)}: the answer to {asked} changed")
                continue
            known.answers[asked] = answer
            if not isinstance(answer, dict) or answer.get("for") != asked:
                self.blame(Promise.ANSWERED_ONCE, f"{_short(ref)}: {asked} got the answer {answer!r}")
            for question in known.questions:
                if question.id == asked and question.breakpoint is not None:
                    known.approved.add(question.breakpoint)
        if all(question.id in known.answers for question in known.questions):
            self._set(known, Status.QUEUED)

    def requeued(self, ref: TaskRef) -> None:
        known = self.tasks[ref.task_id]
        if known.status not in (Status.FAILED, Status.DEAD):
            self.blame(Promise.ENDS_ONCE, f"{_short(ref)} was requeued while it is {known.status}")
        owner = self.active.get(ref.thread)
        if owner is not None and owner != ref.task_id and self.tasks[owner].status not in TERMINAL:
            self.blame(Promise.NOT_INTERLEAVED, f"{_short(ref)} was requeued while {_brief(owner)} has begun")
        known.revivals += 1
        known.losses = 0
        self._set(known, Status.QUEUED)

    def abandoned(self, thread: ThreadRef, worker: WorkerId, task: Task | None, *, charge: bool) -> None:
        """`task` is what the thread's holder held, as it stands now; `charge`: the loss counts as an attempt."""
        held = self.held.get(thread)
        if held is None or task is None or task.status is Status.RUNNING:
            return
        if held.lease.worker != worker:
            self.blame(Promise.NOT_TAKEN, f"{held.lease.worker}'s lease was taken when {worker} died")
        self._lost(thread, task, charge=charge)

    def rescued(self, thread: ThreadRef, tasks: Sequence[Task]) -> None:
        """A rescuer looked at a thread; `tasks` are all of it as they stand now."""
        now = self._now_ms()
        held = self.held.get(thread)
        for task in tasks:
            known = self.tasks[task.task_id]
            if known.status is task.status:
                continue
            deadline = task.spec.deadline_ms
            if task.status is Status.FAILED and deadline is not None and deadline <= now:
                if held is not None and held.lease.task_id == task.task_id:
                    del self.held[thread]
                self._end(known.ref, Status.FAILED)
            elif held is not None and held.lease.task_id == task.task_id:
                if now < held.until_ms:
                    left = held.until_ms - now
                    self.blame(Promise.NOT_TAKEN, f"{held.lease.worker}'s lease was taken {left} ms before its end")
                elif now - self.started_ms < held.lease.ttl_ms:
                    since = now - self.started_ms
                    self.blame(
                        Promise.NOT_TAKEN, f"{held.lease.worker}'s lease was taken {since} ms after the store's start"
                    )
                else:
                    self._must_have_stopped(held)
                self._lost(thread, task)
            else:
                self.blame(Promise.ENDS_ONCE, f"a rescuer turned {_brief(task.task_id)} to {task.status}")

    # --- what the workers do
    def enters(self, lease: Lease, worker: Process, keeper: Process) -> None:
        self.running[lease.fence] = (worker, keeper)

    def leaves(self, lease: Lease) -> None:
        self.running.pop(lease.fence, None)

    def begins(self, lease: Lease, step: int) -> None:
        """A step's work begins. A zombie may begin one: it can commit nothing."""
        known = self.tasks[lease.task_id]
        if self._of(lease) is None:
            return
        if step < known.committed:
            self.blame(Promise.NOT_AGAIN, f"{_brief(lease.task_id)} began step {step} again")
        node = known.script.node(step)
        if node in known.script.breakpoints and node not in known.approved:
            self.blame(Promise.NOT_PASSED, f"{_brief(lease.task_id)} began step {step} without approval")

    def uses(self, lease: Lease, question: str, answer: Any) -> None:
        """A step goes on with an answer to its question."""
        known = self.tasks[lease.task_id]
        if self._of(lease) is None:
            return
        given = answer.get("for") if isinstance(answer, dict) else None
        if given is None or known.answers.get(given) != answer:
            self.blame(Promise.NOT_PASSED, f"{_brief(lease.task_id)} went on with {answer!r}, which nobody answered")
        elif known.used.setdefault(given, question) != question:
            self.blame(Promise.ANSWERED_ONCE, f"{_brief(lease.task_id)}: {given} answered {known.used[given]} before")

    # --- at the end
    def at_rest(self, known: Known) -> bool:
        return known.status in TERMINAL

    # --- of its own
    def _must_have_stopped(self, held: Held) -> None:
        there = self.running.get(held.lease.fence)
        if there is None:
            return
        since = held.renewed_s - 2 * held.lease.ttl_ms / 1000
        if all(process.runs and process.still_until < since for process in there):
            self.blame(
                Promise.STOPS_IN_TIME,
                f"{held.lease.worker} still ran {_brief(held.lease.task_id)} when its lease had expired",
            )

    def _of(self, lease: Lease) -> Held | None:
        held = self.held.get(ThreadRef(lease.tenant, lease.thread_id))
        return held if held is not None and held.lease.fence == lease.fence else None

    def _release(self, lease: Lease) -> None:
        if self._of(lease) is not None:
            del self.held[ThreadRef(lease.tenant, lease.thread_id)]

    def _lost(self, thread: ThreadRef, task: Task, *, charge: bool = True) -> None:
        del self.held[thread]
        known = self.tasks[task.task_id]
        known.losses += charge
        if (task.status is Status.DEAD) is not (known.losses >= known.max_attempts):
            self.blame(
                Promise.BOUNDED,
                f"{_short(known.ref)} is {task.status} after {known.losses} of {known.max_attempts} attempts",
            )
        if task.status is Status.DEAD:
            self._end(known.ref, Status.DEAD)
        else:
            self._set(known, Status.QUEUED)

    def _end(self, ref: TaskRef, status: Status) -> None:
        known = self.tasks[ref.task_id]
        if known.cancelled:
            self.blame(Promise.STAYS_CANCELLED, f"{_short(ref)} was cancelled and is now {status}")
        elif known.status in TERMINAL:
            self.blame(Promise.ENDS_ONCE, f"{_short(ref)} was {known.status} and is now {status}")
        known.ends += 1
        self._set(known, status)

    def _set(self, known: Known, status: Status) -> None:
        known.status = status
        self._changed(known)

    def _changed(self, known: Known) -> None:
        self._trace.tell("store", f"{_short(known.ref)} is {known.status}")
        for tell in self.on_change:
            tell(known)


def mark_of(event: Event) -> str | None:
    """The mark by which a script's event is known again, None for other events."""
    if event.method != Method.CUSTOM or b'"mark"' not in event.body:
        return None
    mark: str = event.decoded()["params"]["data"]["mark"]
    return mark


def _short(ref: TaskRef) -> str:
    return f"{ref.thread_id}/{_brief(ref.task_id)}"


def _brief(task_id: str) -> str:
    return f"task-{int(task_id[-12:], 16)}"
