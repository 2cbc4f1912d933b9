"""The store on Valkey or Redis: one server-side function a verb, one file each in `lua/`.

What crosses slots lives in sharded indexes that are supersets of the truth: they are written before the record, and
cleaned when the rescuer or a listing finds an entry that leads nowhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from importlib.resources import files
from typing import Any, Final

import msgspec

from perdure.clock import Clock
from perdure.errors import Conflict, IdempotencyMismatch, LeaseLost, NotFound, StoreUnavailable
from perdure.lifecycle.doorbell import Doorbell, TaskRef, ThreadRef
from perdure.lifecycle.events import Event, NewEvent
from perdure.lifecycle.ids import TaskId, Tenant, ThreadId, Token, WorkerId
from perdure.lifecycle.lease import Lease
from perdure.lifecycle.task import Interrupt, Priority, Task, TaskError, TaskSpec, decode_spec
from perdure.lifecycle.transitions import LIVE, Status, Verb, require
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
from perdure.store.suitability import durability_of, findings
from perdure.store.wakeups import WakeUps
from perdure.valkey import keys
from perdure.valkey.connection import Arg, Client, Reply, Subscriptions, ValkeyReplyError
from perdure.valkey.functions import FunctionLibrary

LIBRARY: Final = FunctionLibrary.of("perdure_store", files("perdure.store") / "lua")
STALE_RETRIES: Final = 3
_json: Final = msgspec.json.Encoder()


class ValkeyStore(TaskStore):
    """Tasks, threads, leases, events, artifacts and the fleet on one Valkey or Redis.

    Make it with `await ValkeyStore.open(client, clock)`, which loads the functions and finds out what is durable.
    """

    def __init__(self, client: Client, clock: Clock, stored: str) -> None:
        self._client = client
        self._clock = clock
        self._stored = stored
        self._store_ms = 0
        self._compared_at = 0.0
        self._subscriptions = Subscriptions(client)

    @classmethod
    async def open(cls, client: Client, clock: Clock) -> ValkeyStore:
        """Raises StoreUnavailable, or ConfigurationError if the server refuses us."""
        store = cls(client, clock, await durability_of(client))
        await store._compare_clocks()
        return store

    # --- acceptance
    async def create(self, spec: TaskSpec) -> Created:
        thread = ThreadRef(spec.tenant, spec.thread_id)
        address = keys.ref_text(thread)
        shard = keys.shard(address)
        record = _json.encode(spec)
        for _ in range(STALE_RETRIES):
            look = self._now_ms() + RING_AGAIN_MS
            # One connection keeps order, so the record is written after its index entries, in the same batch.
            batch: list[Sequence[Arg]] = [
                ("ZADD", keys.task_index(keys.shard(spec.task_id)), 0, f"{spec.task_id} {address}"),
                ("ZADD", keys.live_index(shard), look, address),
                ("ZADD", keys.thread_index(shard), "NX", spec.created_ms, address),
                (
                    "FCALL",
                    LIBRARY.name("create"),
                    1,
                    keys.thread(thread),
                    look,
                    spec.task_id,
                    record,
                    spec.graph,
                    spec.tier,
                    spec.priority,
                    spec.multitask,
                    spec.max_attempts,
                    _or_empty(spec.not_before_ms),
                    _or_empty(spec.deadline_ms),
                    self._clock.nonce()[:4],
                ),
            ]
            try:
                reply = (await self._client.calls(batch, LIBRARY))[-1]
            except ValkeyReplyError as error:
                if error.code == "STALE":
                    await self._compare_clocks()
                    continue
                raise _translated(error, spec.thread_id) from error
            if reply[0] == b"replayed":
                ref = TaskRef(*thread, spec.task_id)
                return Created(await self.get(ref), _bell(thread, reply[3]), replayed=True)
            if 0 <= reply[4] < look:
                # Only now: an entry that is due before its record is written would be cleaned as leading nowhere.
                await self._client.call("ZADD", keys.live_index(shard), "LT", reply[4], address)
            task = Task(
                spec=spec,
                status=Status.QUEUED,
                tier=spec.tier,
                updated_ms=reply[1],
                not_before_ms=spec.not_before_ms,
                first_seq=reply[2],
                last_seq=reply[2],
            )
            displaced = [
                (TaskRef(*thread, TaskId(task_id.decode())), WorkerId(worker.decode()) if worker else None)
                for task_id, worker in zip(reply[5][::2], reply[5][1::2], strict=True)
            ]
            return Created(task, _bell(thread, reply[3]), displaced)
        raise StoreUnavailable("every try to store the task took more than 5 s; it was not stored")

    async def reserve(self, tenant: Tenant, key: str, fingerprint: str, answer: bytes) -> bytes | None:
        kept = await self._client.fcall(
            LIBRARY, "reserve", [keys.idempotency(tenant, key)], fingerprint, answer, IDEMPOTENCY_MS
        )
        if kept is None:
            return None
        if kept[0].decode() != fingerprint:
            raise IdempotencyMismatch(f"the Idempotency-Key {key!r} was used before with another request")
        answer_kept: bytes = kept[1]
        return answer_kept

    # --- acting under a lease
    async def claim(self, ref: TaskRef, worker: WorkerId, ttl_ms: int) -> Claim | None:
        nonce = self._clock.nonce()
        reply = await self._thread_call("claim", ref.thread, ref.task_id, worker, ttl_ms, nonce)
        if reply is None:
            return None
        token, epoch, lost_text, first, last, fields, rings = reply
        if rings > 0:
            # The rescuer had put off its next look at this long-waiting thread beyond the end of the new lease.
            address = keys.ref_text(ref.thread)
            index = keys.live_index(keys.shard(address))
            await self._client.call("ZADD", index, "XX", "LT", self._now_ms() + ttl_ms, address)
        lost = msgspec.json.decode(lost_text) if lost_text else None
        lease = Lease(*ref, Token(token), nonce, worker, ttl_ms)
        return Claim(
            lease,
            _task(fields),
            epoch.decode(),
            WorkerId(lost[0]) if lost else None,
            (first, last) if lost and first <= last else None,
        )

    async def renew(self, leases: Sequence[Lease]) -> Sequence[bool]:
        replies = await asyncio.gather(
            *(
                self._client.fcall(LIBRARY, "renew", [keys.thread(_thread_of(lease))], lease.fence, lease.ttl_ms)
                for lease in leases
            )
        )
        return [reply == 1 for reply in replies]

    async def append(self, lease: Lease, events: Sequence[NewEvent], first: int = 0) -> int:
        last: int = await self._held_call("append", lease, first, *_flat(events))
        return last

    async def succeed(self, lease: Lease, result: bytes, events: Sequence[NewEvent] = ()) -> Ended:
        reply = await self._held_call("finish", lease, Verb.SUCCEED, "", result, "", *_flat(events))
        return _ended(_thread_of(lease), (1, *reply))

    async def fail(self, lease: Lease, error: TaskError, reason: str, events: Sequence[NewEvent] = ()) -> Ended:
        reply = await self._held_call("finish", lease, Verb.FAIL, reason, "", _json.encode(error), *_flat(events))
        return _ended(_thread_of(lease), (1, *reply))

    async def pause(
        self, lease: Lease, interrupts: Sequence[Interrupt], checkpoint_id: str, events: Sequence[NewEvent] = ()
    ) -> None:
        await self._held_call("pause", lease, _json.encode(list(interrupts)), checkpoint_id, *_flat(events))

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
        reply = await self._held_call(
            "give_back",
            lease,
            reason,
            tier or "",
            _or_empty(not_before_ms),
            _json.encode(error) if error is not None else "",
            int(cut),
        )
        return _ring(_thread_of(lease), reply)

    async def put_artifact(self, lease: Lease, name: str, media_type: str, data: bytes, step: int) -> Artifact:
        number, now, attempt = await self._held_call("put_artifact", lease, name, media_type, data, step)
        return Artifact(str(number), name, media_type, len(data), now, step, attempt)

    # --- from outside
    async def cancel(self, ref: TaskRef, reason: str = "requested") -> Ended:
        return _ended(ref.thread, await self._thread_call("cancel", ref.thread, ref.task_id, reason))

    async def resume(
        self,
        ref: TaskRef,
        *,
        value: Any = msgspec.UNSET,
        responses: Mapping[str, Any] | None = None,
        update: bytes | None = None,
        goto: Sequence[str] = (),
    ) -> Doorbell | None:
        while True:
            fields = await self._fields(ref)
            task = _task(fields)
            require(task.status, Verb.RESUME)
            answers = answers_to(task, value, responses)
            merged = {**task.answers, **answers}
            complete = all(question.id in merged for question in task.interrupts)
            if complete:
                await self._look_soon(ref.thread)
            reply = await self._thread_call(
                "answer",
                ref.thread,
                ref.task_id,
                fields.get(b"rev", b"0"),
                int(complete),
                _json.encode(merged),
                _json.encode(passed_with(task, answers)),
                update if update is not None else task.update or b"",
                _json.encode(list(goto) or task.goto),
            )
            if reply != b"again":
                return _bell(ref.thread, reply)

    async def requeue(self, ref: TaskRef) -> Doorbell:
        await self._look_soon(ref.thread)
        return _ring(ref.thread, await self._thread_call("requeue", ref.thread, ref.task_id))

    async def abandon(self, thread: ThreadRef, worker: WorkerId, *, charge: bool = True) -> Doorbell | None:
        return _bell(thread, await self._thread_call("abandon", thread, worker, int(charge)))

    async def due(self, limit: int) -> Sequence[Due]:
        await self._compare_clocks()
        now = self._now_ms()
        shards = await asyncio.gather(
            *(
                self._client.call("ZRANGE", keys.live_index(n), "-inf", now, "BYSCORE", "LIMIT", 0, limit, "WITHSCORES")
                for n in range(keys.SHARDS)
            )
        )
        found = sorted(((score, member) for shard in shards for member, score in shard), key=lambda entry: entry[0])
        # The mark is the score to its last digit: whoever writes another score since must be seen to have done so.
        return [Due(keys.parse_ref(member.decode()), repr(score)) for score, member in found[:limit]]

    async def rescue(self, due: Due) -> Doorbell | None:
        ring, look = await self._thread_call("rescue", due.thread, RING_AGAIN_MS)
        address = keys.ref_text(due.thread)
        await self._client.fcall(LIBRARY, "settle", [keys.live_index(keys.shard(address))], address, due.mark, look)
        return _bell(due.thread, ring)

    # --- reading
    async def locate(self, task_id: TaskId, tenant: Tenant) -> TaskRef | None:
        found = await self._client.call(
            "ZRANGE", keys.task_index(keys.shard(task_id)), f"[{task_id} ", f"[{task_id}!", "BYLEX", "LIMIT", 0, 1
        )
        if not found:
            return None
        thread = keys.parse_ref(found[0].decode().partition(" ")[2])
        return TaskRef(*thread, task_id) if thread.tenant == tenant else None

    async def get(self, ref: TaskRef) -> Task:
        return _task(await self._fields(ref))

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
        below = cursor
        while True:
            refs = await self._newest(tenant, thread_id, below, max(limit * 2, 50))
            for ref, fields in zip(
                refs,
                await asyncio.gather(
                    *(self._client.call("HGETALL", keys.task(ref.thread, ref.task_id)) for ref in refs)
                ),
                strict=True,
            ):
                below = ref.task_id
                if not fields:
                    continue  # Created and never stored, or deleted: the index is a superset.
                task = _task(fields)
                if ref.tenant == tenant and matches(task, status, thread_id, graph, metadata):
                    if len(found) == limit:
                        return found, found[-1].task_id
                    found.append(task)
            if not refs:
                return found, None

    async def _newest(
        self, tenant: Tenant, thread_id: ThreadId | None, below: str | None, count: int
    ) -> Sequence[TaskRef]:
        """References with ids below `below`, newest first: of one thread, or of all through the indexes."""
        if thread_id is not None:
            thread = ThreadRef(tenant, thread_id)
            ids = sorted(
                (entry.decode() for entry in await self._client.call("ZRANGE", keys.tasks(thread), 0, -1)),
                reverse=True,
            )
            return [TaskRef(*thread, TaskId(task_id)) for task_id in ids if below is None or task_id < below][:count]
        shards = await asyncio.gather(
            *(
                self._client.call(
                    "ZRANGE", keys.task_index(n), f"({below}" if below else "+", "-", "BYLEX", "REV", "LIMIT", 0, count
                )
                for n in range(keys.SHARDS)
            )
        )
        members = sorted((member.decode() for shard in shards for member in shard), reverse=True)[:count]
        refs = []
        for member in members:
            task_id, _, address = member.partition(" ")
            refs.append(TaskRef(*keys.parse_ref(address), TaskId(task_id)))
        return refs

    async def delete_task(self, ref: TaskRef) -> None:
        await self._thread_call("delete_task", ref.thread, ref.task_id)
        await self._client.call(
            "ZREM", keys.task_index(keys.shard(ref.task_id)), f"{ref.task_id} {keys.ref_text(ref.thread)}"
        )

    async def thread(self, ref: ThreadRef) -> Thread:
        record, waiting = await asyncio.gather(
            self._client.call("HGETALL", keys.thread(ref)), self._client.call("LRANGE", keys.queue(ref), 0, -1)
        )
        if not record:
            raise NotFound(f"there is no thread {ref.thread_id!r}")
        return Thread(
            thread_id=ref.thread_id,
            created_ms=int(record.get(b"created", 0)),
            updated_ms=int(record.get(b"updated", 0)),
            epoch=record.get(b"epoch", b"").decode(),
            last_seq=int(record.get(b"seq", 0)),
            graph=_text(record, b"graph"),
            owner=TaskId(owner) if (owner := _text(record, b"owner")) else None,
            waiting=[TaskId(entry.decode()) for entry in waiting],
            metadata=msgspec.json.decode(record.get(b"metadata") or b"{}"),
            checkpoint_id=_text(record, b"head"),
            last_task=TaskId(last) if (last := _text(record, b"last_task")) else None,
        )

    async def create_thread(self, ref: ThreadRef, metadata: Mapping[str, Any], graph: str | None = None) -> Thread:
        address = keys.ref_text(ref)
        await self._client.call("ZADD", keys.thread_index(keys.shard(address)), "NX", self._clock.now_ms(), address)
        await self._thread_call(
            "create_thread", ref, self._clock.nonce()[:4], _json.encode(dict(metadata)), graph or ""
        )
        return await self.thread(ref)

    async def list_threads(
        self, tenant: Tenant, *, limit: int = 20, cursor: str | None = None
    ) -> tuple[Sequence[Thread], str | None]:
        below = thread_cursor(cursor) if cursor is not None else None
        found: list[Thread] = []
        while True:
            shards = await asyncio.gather(
                *(
                    self._client.call(
                        "ZRANGE",
                        keys.thread_index(n),
                        below[0] if below else "+inf",
                        "-inf",
                        "BYSCORE",
                        "REV",
                        "LIMIT",
                        0,
                        limit + 50,
                        "WITHSCORES",
                    )
                    for n in range(keys.SHARDS)
                )
            )
            entries = sorted(
                ((int(score), keys.parse_ref(member.decode())) for shard in shards for member, score in shard),
                key=lambda entry: (entry[0], entry[1].thread_id),
                reverse=True,
            )
            entries = [entry for entry in entries if below is None or (entry[0], entry[1].thread_id) < below]
            if not entries:
                return found, None
            for created_ms, ref in entries[: limit + 50]:
                if ref.tenant == tenant:
                    if len(found) == limit:
                        assert below is not None
                        return found, f"{below[0]}:{below[1]}"
                    with contextlib.suppress(NotFound):
                        found.append(await self.thread(ref))
                below = (created_ms, ref.thread_id)

    async def delete_thread(self, ref: ThreadRef) -> None:
        ids = await self._thread_call("delete_thread", ref)
        address = keys.ref_text(ref)
        by_shard: dict[int, list[str]] = defaultdict(list)
        for task_id in (entry.decode() for entry in ids):
            by_shard[keys.shard(task_id)].append(f"{task_id} {address}")
        await asyncio.gather(
            self._client.call("ZREM", keys.thread_index(keys.shard(address)), address),
            *(self._client.call("ZREM", keys.task_index(n), *members) for n, members in by_shard.items()),
        )

    async def events(self, thread: ThreadRef, after_seq: int, limit: int = 500) -> EventPage:
        epoch_bytes, first, last, entries = await self._thread_call("events", thread, max(after_seq, 0), limit)
        epoch = epoch_bytes.decode()
        events = [
            Event(
                epoch,
                int(entry_id[:-2]),
                fields[1].decode(),
                fields[3].decode(),
                fields[7].decode(),
                TaskId(fields[5].decode()),
                fields[9],
            )
            for entry_id, fields in entries
        ]
        return EventPage(epoch, first, last, events)

    @contextlib.asynccontextmanager
    async def follow(self, thread: ThreadRef) -> AsyncIterator[EventFeed]:
        feed = WakeUps()
        async with self._subscriptions.listen(keys.bell(thread), feed.wake):
            yield feed

    async def artifacts(self, ref: TaskRef) -> Sequence[Artifact]:
        await self.get(ref)
        key = keys.artifacts(ref.thread, ref.task_id)
        count = int(await self._client.call("HGET", key, "count") or 0)
        if not count:
            return []
        described = await self._client.call("HMGET", key, *range(1, count + 1))
        return [_artifact(number, text) for number, text in enumerate(described, 1) if text is not None]

    async def artifact(self, ref: TaskRef, name: str) -> tuple[Artifact, bytes]:
        for artifact in reversed(await self.artifacts(ref)):
            if name in (artifact.artifact_id, artifact.name):
                key = keys.artifacts(ref.thread, ref.task_id)
                data = await self._client.call("HGET", key, f"{artifact.artifact_id}:data")
                if data is not None:
                    return artifact, data
        raise NotFound(f"task {ref.task_id!r} has no artifact {name!r}")

    # --- the fleet
    async def heartbeat(self, worker: WorkerInfo, ttl_ms: int) -> None:
        now = self._clock.now_ms()
        info = msgspec.structs.replace(worker, heartbeat_ms=now)
        await asyncio.gather(
            self._client.call("ZADD", keys.WORKERS, now + ttl_ms, worker.worker_id),
            self._client.call("SET", keys.worker(worker.worker_id), _json.encode(info), "PX", ttl_ms),
        )

    async def forget_worker(self, worker: WorkerId) -> None:
        await asyncio.gather(
            self._client.call("ZREM", keys.WORKERS, worker), self._client.call("DEL", keys.worker(worker))
        )

    async def workers(self) -> Sequence[WorkerInfo]:
        now = self._clock.now_ms()
        await self._client.call("ZREMRANGEBYSCORE", keys.WORKERS, "-inf", now)
        ids = await self._client.call("ZRANGE", keys.WORKERS, 0, -1)
        texts = await asyncio.gather(
            *(self._client.call("GET", keys.worker(WorkerId(worker.decode()))) for worker in ids)
        )
        return [msgspec.json.decode(text, type=WorkerInfo) for text in texts if text is not None]

    async def tell(self, worker: WorkerId, task_id: TaskId) -> None:
        await self._client.call("SPUBLISH", keys.orders(worker), task_id)

    @contextlib.asynccontextmanager
    async def orders(self, worker: WorkerId) -> AsyncIterator[AsyncIterator[TaskId]]:
        queue: asyncio.Queue[TaskId] = asyncio.Queue()

        def heard(payload: bytes | None) -> None:
            if payload is not None:
                queue.put_nowait(TaskId(payload.decode()))

        async def told() -> AsyncIterator[TaskId]:
            while True:
                yield await queue.get()

        async with self._subscriptions.listen(keys.orders(worker), heard):
            yield told()

    # --- the deployment
    async def counts(self) -> Mapping[str, int]:
        tally: dict[str, int] = defaultdict(int)
        shards = await asyncio.gather(
            *(self._client.call("ZRANGE", keys.live_index(n), 0, 9_999) for n in range(keys.SHARDS))
        )
        threads = [keys.parse_ref(member.decode()) for shard in shards for member in shard]
        records = await asyncio.gather(*(self._client.call("HGET", keys.thread(ref), "owner") for ref in threads))
        owners = [(ref, TaskId(owner.decode())) for ref, owner in zip(threads, records, strict=True) if owner]
        tasks = await asyncio.gather(
            *(self._client.call("HMGET", keys.task(ref, owner), "tier", "status") for ref, owner in owners)
        )
        for tier, status in tasks:
            if tier is not None and Status(status.decode()) in LIVE:
                tally[f"{tier.decode()}/{status.decode()}"] += 1
        return tally

    async def check(self) -> Sequence[Finding]:
        return await findings(self._client)

    @property
    def stored(self) -> str:
        return self._stored

    async def ping(self) -> None:
        await self._client.call("SET", "perdure:ping", self._clock.now_ms(), "PX", 60_000)

    async def aclose(self) -> None:
        await self._subscriptions.aclose()

    # --- how the verbs talk
    async def _thread_call(self, verb: str, thread: ThreadRef, *args: Arg) -> Reply:
        try:
            return await self._client.fcall(LIBRARY, verb, [keys.thread(thread)], *args)
        except ValkeyReplyError as error:
            raise _translated(error, thread.thread_id) from error

    async def _held_call(self, verb: str, lease: Lease, *args: Arg) -> Reply:
        return await self._thread_call(verb, _thread_of(lease), lease.fence, lease.task_id, *args)

    async def _fields(self, ref: TaskRef) -> dict[bytes, bytes]:
        fields: dict[bytes, bytes] = await self._client.call("HGETALL", keys.task(ref.thread, ref.task_id))
        if not fields:
            raise NotFound(f"there is no task {ref.task_id!r}")
        return fields

    def _now_ms(self) -> int:
        """The store's time, as far as this machine can tell; what the live index is ordered by."""
        return self._store_ms + int((self._clock.monotonic() - self._compared_at) * 1000)

    async def _compare_clocks(self) -> None:
        """Machines need not agree on the time, and their clocks may be set: all that matters is the store's."""
        seconds, micros = await self._client.call("TIME")
        self._store_ms = int(seconds) * 1000 + int(micros) // 1000
        self._compared_at = self._clock.monotonic()

    async def _look_soon(self, thread: ThreadRef) -> None:
        """Put the thread into the live index before it becomes live, so that a lost ring is found."""
        address = keys.ref_text(thread)
        look = self._now_ms() + RING_AGAIN_MS + random.random()
        await self._client.call("ZADD", keys.live_index(keys.shard(address)), look, address)


def _translated(error: ValkeyReplyError, name: str) -> Exception:
    """What a function's refusal means to a caller."""
    word, _, rest = error.detail.partition(" ")
    match error.code:
        case "LEASELOST":
            return LeaseLost(error.detail)
        case "NOTFOUND":
            return NotFound(f"there is no such {word}")
        case "CONFLICT" if word == "thread_busy":
            return Conflict("thread_busy", f"thread {name!r} has the live task {rest!r}")
        case "CONFLICT" if word == "thread_moved_on":
            return Conflict("thread_moved_on", f"thread {name!r} has gone on since; fork it from the task's checkpoint")
        case "CONFLICT":
            return Conflict("status", f"the task is {rest}, which does not allow this")
        case _:
            return error


def _flat(events: Sequence[NewEvent]) -> list[Arg]:
    out: list[Arg] = []
    for event in events:
        out += (event.method, event.tag, event.namespace, event.body)
    return out


def _thread_of(lease: Lease) -> ThreadRef:
    return ThreadRef(lease.tenant, lease.thread_id)


def _or_empty(value: int | None) -> Arg:
    return "" if value is None else value


def _ring(thread: ThreadRef, reply: Sequence[bytes]) -> Doorbell:
    task_id, tier, priority = (part.decode() for part in reply)
    return Doorbell(TaskRef(*thread, TaskId(task_id)), tier, Priority(priority))


def _bell(thread: ThreadRef, reply: Sequence[bytes] | None) -> Doorbell | None:
    return _ring(thread, reply) if reply else None


def _ended(thread: ThreadRef, reply: Sequence[Any]) -> Ended:
    changed, fields, worker, ring = reply
    return Ended(_task(fields), changed == 1, WorkerId(worker.decode()) if worker else None, _bell(thread, ring))


def _text(record: Mapping[bytes, bytes], field: bytes) -> str | None:
    value = record.get(field)
    return value.decode() if value else None


def _number(record: Mapping[bytes, bytes], field: bytes) -> int | None:
    value = record.get(field)
    return int(value) if value else None


def _artifact(number: int, text: bytes) -> Artifact:
    described = msgspec.json.decode(text)
    return Artifact(artifact_id=str(number), **described)


def _task(fields: Mapping[bytes, bytes] | Sequence[bytes]) -> Task:
    """A task from its hash, which a command returns as a map and a function as a flat list."""
    record: Mapping[bytes, bytes]
    record = fields if isinstance(fields, Mapping) else dict(zip(fields[::2], fields[1::2], strict=True))
    decode = msgspec.json.decode
    error, result, update = record.get(b"error"), record.get(b"result"), record.get(b"update")
    worker = _text(record, b"worker")
    return Task(
        spec=decode_spec(record[b"spec"]),
        status=Status(record[b"status"].decode()),
        tier=record[b"tier"].decode(),
        attempt=int(record.get(b"attempt", 0)),
        losses=int(record.get(b"losses", 0)),
        suspicions=int(record.get(b"suspicions", 0)),
        step=int(record.get(b"step", 0)),
        updated_ms=int(record.get(b"updated", 0)),
        started_ms=_number(record, b"started"),
        finished_ms=_number(record, b"finished"),
        not_before_ms=_number(record, b"not_before"),
        worker=WorkerId(worker) if worker else None,
        reason=_text(record, b"reason"),
        error=decode(error, type=TaskError) if error else None,
        result=msgspec.Raw(result) if result else None,
        interrupts=decode(record.get(b"interrupts") or b"[]", type=list[Interrupt]),
        answers=decode(record.get(b"answers") or b"{}"),
        passed=decode(record.get(b"passed") or b"[]"),
        update=msgspec.Raw(update) if update else None,
        goto=decode(record.get(b"goto") or b"[]"),
        checkpoint_id=_text(record, b"checkpoint_id"),
        base_checkpoint_id=_text(record, b"base_checkpoint"),
        first_seq=int(record.get(b"first_seq", 0)),
        last_seq=int(record.get(b"last_seq", 0)),
    )
