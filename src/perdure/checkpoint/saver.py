"""The saver: LangGraph checkpoints in plain Valkey hashes, fenced by a lease where one is given."""

from __future__ import annotations

import asyncio
import re
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from importlib.resources import files
from types import TracebackType
from typing import Any, Final, NamedTuple, Self, cast
from urllib.parse import quote, unquote

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    WRITES_IDX_MAP,
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    DeltaChannelHistory,
    PendingWrite,
    get_checkpoint_id,
    get_checkpoint_metadata,
)
from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.serde.types import ERROR

from perdure.checkpoint.background import Background
from perdure.checkpoint.codec import (
    Entry,
    Version,
    blob_field,
    decode_blob,
    decode_entry,
    decode_writes,
    encode_blob,
    encode_entry,
    encode_write,
)
from perdure.clock import Clock, SystemClock
from perdure.errors import Conflict, InvalidRequest, LeaseLost, StoreUnavailable
from perdure.lifecycle.doorbell import ThreadRef
from perdure.lifecycle.ids import DEFAULT_TENANT, Tenant, ThreadId
from perdure.lifecycle.lease import Lease
from perdure.valkey import keys
from perdure.valkey.connection import Arg, Client, Reply, ValkeyReplyError
from perdure.valkey.functions import FunctionLibrary

LIBRARY: Final = FunctionLibrary.of("perdure_checkpoint", files("perdure.checkpoint") / "lua")

PAGE: Final = 20
"""How many checkpoints `list` loads at a time."""
HISTORY_PAGE: Final = 200
"""How many ancestors one walk for delta channels looks at before it lets others use the server."""
COPY_BATCH: Final = 64
INDEXED_MAX: Final = 4096
# The mark by which LangGraph finds the handler of a failed node again.
_ERROR_SOURCE: Final = "__error_source_node__"
_TURNS_OF_A_SUBGRAPH: Final = 8
_PLAIN_ID: Final = re.compile(r"[A-Za-z0-9_.:@-]+")
_CONTROL: Final = re.compile(r"[\x00-\x1f]")


class Place(NamedTuple):
    """What a config points at. `checkpoint_id` is None for the newest, `namespace` None for all."""

    thread: ThreadRef
    namespace: str | None
    checkpoint_id: str | None


class Session:
    """One client and what must be remembered beside it; belongs to one event loop.

    `writes_under_way`: of each checkpoint, the writes that are not confirmed yet, and those that failed.
    `indexed`: entries of cross-slot indexes that this session has made; bounded.
    """

    def __init__(self, client: Client) -> None:
        self.client = client
        self.writes_under_way: dict[tuple[ThreadRef, str, str], set[asyncio.Future[None]]] = {}
        self._indexed: OrderedDict[str, None] = OrderedDict()

    def is_indexed(self, member: str) -> bool:
        return member in self._indexed

    def mark_indexed(self, member: str) -> None:
        self._indexed[member] = None
        if len(self._indexed) > INDEXED_MAX:
            self._indexed.popitem(last=False)

    def forget_indexed(self, members: Iterable[str]) -> None:
        for member in members:
            self._indexed.pop(member, None)

    async def aclose(self) -> None:
        await self.client.aclose()


class ValkeySaver(BaseCheckpointSaver[str]):
    """A LangGraph checkpointer on Valkey >= 7.2 or Redis >= 7.0, without modules, for sync and async callers.

        async with ValkeySaver.from_url("valkey://127.0.0.1:6379") as saver:
            graph = builder.compile(checkpointer=saver)

    What `put` has returned for is stored as durably as the server stores anything, and so are the writes of the
    tasks before it. With a `lease`, every write to the lease's thread is refused with LeaseLost once the lease is no
    longer the thread's; without one, a thread on which a task runs refuses it with Conflict (`thread_busy`).

    `serde` defaults to LangGraph's serializer with its strict allow-list, which never reads pickle. `before_put` is
    awaited by `aput` right before a checkpoint is sent. `patience_s` is how long a call waits for a store that is
    away before it raises StoreUnavailable; every call may be repeated safely.

    Async methods belong to the event loop in which `client` is used. Sync methods run on a thread and a connection
    of their own, made at the first of them; `before_put` is not called there.
    """

    def __init__(
        self,
        client: Client,
        *,
        serde: SerializerProtocol | None = None,
        lease: Lease | None = None,
        tenant: Tenant = DEFAULT_TENANT,
        before_put: Callable[[], Awaitable[None]] | None = None,
        patience_s: float = 0.0,
        clock: Clock | None = None,
    ) -> None:
        super().__init__(serde=serde or JsonPlusSerializer(pickle_fallback=False, allowed_msgpack_modules=None))
        self._lease = lease
        self._tenant = lease.tenant if lease else tenant
        self._before_put = before_put
        self._patience_s = patience_s
        self._clock = clock or SystemClock()
        self._owns_client = False
        # with_allowlist() copies the saver, so whatever changes lives in objects that the copies share.
        self._session = Session(client)
        self._background = Background(lambda: Session(Client(client.address)))

    @classmethod
    def from_url(
        cls,
        url: str,
        *,
        serde: SerializerProtocol | None = None,
        tenant: Tenant = DEFAULT_TENANT,
        patience_s: float = 0.0,
    ) -> Self:
        """A saver with a client of its own, closed when the `async with` or `with` block ends."""
        saver = cls(Client(url), serde=serde, tenant=tenant, patience_s=patience_s)
        saver._owns_client = True
        return saver

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def aclose(self) -> None:
        """Release the connections that this saver made. Safe to repeat."""
        await self._background.aclose()
        if self._owns_client:
            await self._session.client.aclose()

    def close(self) -> None:
        """Release what the sync methods use. Safe to repeat."""
        self._background.close()

    # --- reading ----------------------------------------------------------------------------------------------
    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """The checkpoint that `config` names, or the newest of its namespace, in one round trip."""
        return await self._get_tuple(self._session, config)

    def get_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """See `aget_tuple`."""
        return self._background.run(lambda session: self._get_tuple(session, config))

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        """Checkpoints of one namespace, of all of a thread, or of all threads; newest first in each namespace.

        `filter` compares metadata for equality. Loaded a page at a time, while it is iterated.
        """
        async for found in self._list(self._session, config, filter, before, limit):
            yield found

    def list(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> Iterator[CheckpointTuple]:
        """See `alist`."""
        found = self._list(self._background.resource, config, filter, before, limit)
        try:
            while True:
                item = self._background.run(lambda _: _following(found))
                if item is None:
                    return
                yield item
        finally:
            self._background.run(lambda _: _finish(found))

    async def aget_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """What the ancestors of a checkpoint wrote to `channels`, oldest first, each from its last stored value on."""
        return await self._history(self._session, config, channels)

    def get_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """See `aget_delta_channel_history`."""
        return self._background.run(lambda session: self._history(session, config, channels))

    # --- writing ----------------------------------------------------------------------------------------------
    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Store a checkpoint. Returns when it and all writes sent before it against its parent are stored."""
        if self._before_put is not None:
            await self._say_first(self._before_put, hops=bool(self._place(config).namespace))
        return await self._put(self._session, config, checkpoint, metadata, new_versions)

    def put(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """See `aput`."""
        # before_put belongs to the event loop of the async side, which may be waiting for this very call.
        return self._background.run(lambda session: self._put(session, config, checkpoint, metadata, new_versions))

    async def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """Store what a task wrote. A write that is there already is kept, except errors, interrupts and the like."""
        if self._before_put is not None:
            # With these writes the node counts as done: whoever goes on from here does not run it again, so what it
            # said and made must be in the store before.
            await self._say_first(self._before_put, hops=True)
        await self._put_writes(self._session, config, writes, task_id, task_path)

    @staticmethod
    async def _say_first(before_put: Callable[[], Awaitable[None]], *, hops: bool) -> None:
        if hops:
            # What a node streams travels through its parents' queues, one hop a turn of the event loop.
            for _ in range(_TURNS_OF_A_SUBGRAPH):
                await asyncio.sleep(0)
        await before_put()

    def put_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """See `aput_writes`."""
        self._background.run(lambda session: self._put_writes(session, config, writes, task_id, task_path))

    async def adelete_thread(self, thread_id: str) -> None:
        """Forget all checkpoints of a thread. Its record stays, for the tasks that it may have."""
        await self._delete_thread(self._session, thread_id)

    def delete_thread(self, thread_id: str) -> None:
        """See `adelete_thread`."""
        self._background.run(lambda session: self._delete_thread(session, thread_id))

    async def adelete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Forget the checkpoints that these runs made, on all threads.

        Delta channels of checkpoints that stay lose what those runs wrote, unless a snapshot came after.
        """
        await self._delete_for_runs(self._session, run_ids)

    def delete_for_runs(self, run_ids: Sequence[str]) -> None:
        """See `adelete_for_runs`."""
        self._background.run(lambda session: self._delete_for_runs(session, run_ids))

    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Copy all checkpoints of a thread, with their whole ancestry. They appear in the target all at once."""
        await self._copy_thread(self._session, source_thread_id, target_thread_id)

    def copy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """See `acopy_thread`."""
        self._background.run(lambda session: self._copy_thread(session, source_thread_id, target_thread_id))

    async def aprune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """Forget old checkpoints of threads: all but the newest of each namespace (`keep_latest`), or all (`delete`).

        Ancestors from which a delta channel of a kept checkpoint is made are kept too.
        """
        await self._prune(self._session, thread_ids, strategy)

    def prune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """See `aprune`."""
        self._background.run(lambda session: self._prune(session, thread_ids, strategy))

    def get_next_version(self, current: str | int | float | None, channel: None) -> str:
        """A version that sorts after `current` and that no other branch of the thread hands out."""
        number = 0 if current is None else int(str(current).split(".")[0])
        return f"{number + 1:032}.{self._clock.nonce()}"

    # --- what both sides do -----------------------------------------------------------------------------------
    async def _get_tuple(self, session: Session, config: RunnableConfig) -> CheckpointTuple | None:
        place = self._place(config)
        namespace = place.namespace or ""
        for key in [key for key in session.writes_under_way if key[:2] == (place.thread, namespace)]:
            # A run begins with a read; what failed in the one before must not fail this one.
            session.writes_under_way[key] = {future for future in session.writes_under_way[key] if not future.done()}
            if not session.writes_under_way[key]:
                del session.writes_under_way[key]
        wanted = [place.checkpoint_id] if place.checkpoint_id else []
        found = await self._load(session, place.thread, namespace, wanted)
        return found[0] if found else None

    async def _load(
        self, session: Session, thread: ThreadRef, namespace: str, ids: Sequence[str]
    ) -> Sequence[CheckpointTuple]:
        *found, flat = await self._call(session, "load", thread, namespace, *ids)
        blobs: dict[bytes, bytes] = dict(zip(flat[::2], flat[1::2], strict=True))
        return [
            self._tuple(thread, namespace, checkpoint_id.decode(), decode_entry(self.serde, text, extra), writes, blobs)
            for checkpoint_id, text, extra, writes in found
        ]

    def _tuple(
        self,
        thread: ThreadRef,
        namespace: str,
        checkpoint_id: str,
        entry: Entry,
        writes: Sequence[bytes],
        blobs: Mapping[bytes, bytes],
    ) -> CheckpointTuple:
        versions: dict[str, Version] = entry.structure["channel_versions"]
        values = {
            channel: decode_blob(self.serde, blob)
            for channel, version in versions.items()
            if (blob := blobs.get(blob_field(namespace, channel, version).encode())) is not None
        }
        return CheckpointTuple(
            config=_config(thread, namespace, checkpoint_id),
            checkpoint=cast(Checkpoint, {**entry.structure, "channel_values": values}),
            metadata=entry.metadata,
            parent_config=_config(thread, namespace, entry.parent_id) if entry.parent_id else None,
            pending_writes=decode_writes(self.serde, writes),
        )

    async def _list(
        self,
        session: Session,
        config: RunnableConfig | None,
        filter: dict[str, Any] | None,
        before: RunnableConfig | None,
        limit: int | None,
    ) -> AsyncGenerator[CheckpointTuple, None]:
        place = self._place(config) if config is not None else None
        below = (get_checkpoint_id(before) if before else None) or ""
        left = limit
        async for thread in self._threads(session, place):
            if place is not None and place.namespace is not None:
                namespaces: Sequence[str] = [place.namespace]
            else:
                namespaces = [name.decode() for name in await self._call(session, "namespaces", thread)]
            for namespace in namespaces:
                if left is not None and left <= 0:
                    return
                only = place.checkpoint_id if place else None
                async for found in self._matching(session, thread, namespace, only, below, filter, left):
                    if left is not None:
                        left -= 1
                    yield found

    async def _matching(
        self,
        session: Session,
        thread: ThreadRef,
        namespace: str,
        only: str | None,
        below: str,
        filter: dict[str, Any] | None,
        limit: int | None,
    ) -> AsyncIterator[CheckpointTuple]:
        if only is not None:
            for found in await self._load(session, thread, namespace, [only]):
                if (not below or only < below) and _matches(found.metadata, filter):
                    yield found
            return
        left = limit
        while left is None or left > 0:
            # With a filter the next match may be far away, so small pages would cost many round trips.
            count = PAGE if left is None or filter else min(PAGE, left)
            page = await self._call(session, "page", thread, namespace, below, count)
            ids = [checkpoint_id.decode() for checkpoint_id in page[::3]]
            if filter:
                entries = zip(ids, page[1::3], page[2::3], strict=True)
                wanted = [id for id, text, extra in entries if _matches(self._metadata(text, extra), filter)]
            else:
                wanted = ids
            for found in await self._load(session, thread, namespace, wanted[:left]) if wanted else []:
                if left is not None:
                    left -= 1
                yield found
            if len(ids) < count:
                return
            below = ids[-1]

    def _metadata(self, text: bytes, extra: bytes) -> CheckpointMetadata:
        return decode_entry(self.serde, text, extra).metadata

    async def _threads(self, session: Session, place: Place | None) -> AsyncIterator[ThreadRef]:
        if place is not None:
            yield place.thread
            return
        for number in range(keys.SHARDS):
            seen: set[bytes] = set()
            cursor: bytes | int = 0
            while True:
                cursor, flat = await self._command(session, "ZSCAN", keys.thread_index(number), cursor, "COUNT", 500)
                for member in flat[::2]:
                    ref = keys.parse_ref(member.decode())
                    if member not in seen and ref.tenant == self._tenant:
                        yield ref
                    seen.add(member)
                if int(cursor) == 0:
                    break

    async def _history(
        self, session: Session, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        if not channels:
            return {}
        place = self._place(config)
        namespace = place.namespace or ""
        newest_first: dict[str, list[PendingWrite]] = {channel: [] for channel in channels}
        seeds: dict[str, Any] = {}
        start, inclusive = place.checkpoint_id or "", 0
        while remaining := [channel for channel in dict.fromkeys(channels) if channel not in seeds]:
            following, *steps = await self._call(
                session, "history", place.thread, namespace, start, inclusive, HISTORY_PAGE, *remaining
            )
            for _, found, writes in steps:
                for write in reversed(decode_writes(self.serde, writes)):
                    newest_first[write[1]].append(write)
                for channel, blob in zip(found[::2], found[1::2], strict=True):
                    seeds[channel.decode()] = decode_blob(self.serde, blob)
            if not following:
                break
            start, inclusive = following.decode(), 1
        history: dict[str, DeltaChannelHistory] = {}
        for channel in channels:
            history[channel] = {"writes": newest_first[channel][::-1]}
            if channel in seeds:
                history[channel]["seed"] = seeds[channel]
        return history

    async def _put(
        self,
        session: Session,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        place = self._place(config)
        namespace, checkpoint_id = place.namespace or "", _checked(checkpoint["id"], "checkpoint_id")
        full = get_checkpoint_metadata(config, metadata)
        text, extra = encode_entry(self.serde, checkpoint, full, place.checkpoint_id)
        values = checkpoint["channel_values"]
        blobs: list[Arg] = []
        for channel, version in new_versions.items():
            if channel in values:
                blobs += (blob_field(namespace, channel, version), encode_blob(self.serde, values[channel]))
        under_way = session.writes_under_way.pop((place.thread, namespace, place.checkpoint_id or ""), set())
        await self._index(session, place.thread, full.get("run_id"))
        step = full.get("step")
        await self._call(
            session,
            "put",
            place.thread,
            self._fence(place.thread),
            namespace,
            checkpoint_id,
            place.checkpoint_id or "",
            text,
            extra,
            self._lease.task_id if self._lease else "",
            step if isinstance(step, int) else 0,
            self._clock.nonce()[:4],
            *blobs,
        )
        # LangGraph waits for a step's checkpoint but not for its tasks' writes, so this waits for both. They travel
        # on one connection, in order, and mostly in one batch.
        if under_way:
            await asyncio.wait(under_way)
        for stored in under_way:
            if not stored.cancelled():
                stored.result()
        return _config(place.thread, namespace, checkpoint_id)

    async def _put_writes(
        self,
        session: Session,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str,
    ) -> None:
        place = self._place(config)
        namespace, checkpoint_id = place.namespace or "", place.checkpoint_id
        if checkpoint_id is None:
            raise InvalidRequest(("/configurable/checkpoint_id", "writes belong to a checkpoint: name its id"))
        writes = worth_keeping(writes)
        if not writes:
            return
        args: list[Arg] = []
        for position, (channel, value) in enumerate(writes):
            index = WRITES_IDX_MAP.get(channel, position)
            args += (f"{task_id}|{index}", encode_write(self.serde, task_path, channel, value), int(index < 0))
        key = (place.thread, namespace, checkpoint_id)
        stored: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        session.writes_under_way.setdefault(key, set()).add(stored)
        try:
            await self._call(
                session, "put_writes", place.thread, self._fence(place.thread), namespace, checkpoint_id, *args
            )
        except asyncio.CancelledError:
            stored.cancel()
            raise
        except Exception as error:
            # It stays with the checkpoint, so that the next one does not claim to be complete.
            stored.set_exception(error)
            stored.exception()
            raise
        stored.set_result(None)
        under_way = session.writes_under_way.get(key)
        if under_way is not None:
            under_way.discard(stored)
            if not under_way:
                del session.writes_under_way[key]

    async def _delete_thread(self, session: Session, thread_id: str) -> None:
        thread = self._thread(thread_id)
        await self._call(session, "delete", thread, self._fence(thread))
        session.forget_indexed([keys.ref_text(thread)])

    async def _delete_for_runs(self, session: Session, run_ids: Sequence[str]) -> None:
        runs_of: dict[ThreadRef, list[str]] = {}
        for run_id in run_ids:
            shard = keys.shard(run_id)
            for index in (keys.run_index(shard), keys.task_index(shard)):
                for member in await self._command(session, "ZRANGE", index, f"[{run_id} ", f"[{run_id}!", "BYLEX"):
                    ref = keys.parse_ref(member.decode()[len(run_id) + 1 :])
                    if ref.tenant == self._tenant:
                        runs_of.setdefault(ref, []).append(run_id)
        for thread, runs in runs_of.items():
            await self._call(session, "delete_runs", thread, self._fence(thread), *runs)
        for run_id in run_ids:
            members = [f"{run_id} {keys.ref_text(thread)}" for thread, runs in runs_of.items() if run_id in runs]
            if members:
                await self._command(session, "ZREM", keys.run_index(keys.shard(run_id)), *members)
                session.forget_indexed(members)

    async def _copy_thread(self, session: Session, source_id: str, target_id: str) -> None:
        source, target = self._thread(source_id), self._thread(target_id)
        if source == target:
            return
        fence = self._fence(target)
        # Two threads live in two slots, so no single function can copy. What the last call names is complete by then.
        members, entries, head = await self._call(session, "dump", source)
        if not members:
            return
        blobs_key = f"{keys.thread(source)}:blobs"
        fields = await self._command(session, "HKEYS", blobs_key)
        for start in range(0, len(fields), COPY_BATCH):
            batch = fields[start : start + COPY_BATCH]
            values = await self._command(session, "HMGET", blobs_key, *batch)
            pairs = [part for field, value in zip(batch, values, strict=True) if value for part in (field, value)]
            if pairs:
                await self._call(session, "fill", target, fence, ":blobs", *pairs)
        for member in members:
            namespace, separator, checkpoint_id = member.partition(b"\1")
            if separator:
                suffix = f":writes:{namespace.decode()}|{checkpoint_id.decode()}"
                writes: dict[bytes, bytes] = await self._command(session, "HGETALL", keys.thread(source) + suffix)
                if writes:
                    pairs = [part for write in writes.items() for part in write]
                    await self._call(session, "fill", target, fence, suffix, *pairs)
        # Fields that begin with a colon are no checkpoints.
        stored = zip(entries[::2], entries[1::2], strict=True)
        runs = {self._metadata(text, b"").get("run_id") for field, text in stored if not field.startswith(b":")}
        for run_id in runs or {None}:
            await self._index(session, target, run_id)
        epoch = self._clock.nonce()[:4]
        await self._call(session, "adopt", target, fence, epoch, head, len(members), *members, *entries)

    async def _prune(self, session: Session, thread_ids: Sequence[str], strategy: str) -> None:
        verbs = {"keep_latest": "prune", "delete": "delete"}
        if strategy not in verbs:
            raise InvalidRequest(("/strategy", f"{strategy!r} is unknown: use 'keep_latest' or 'delete'"))
        for thread in map(self._thread, thread_ids):
            await self._call(session, verbs[strategy], thread, self._fence(thread))

    # --- underneath -------------------------------------------------------------------------------------------
    async def _index(self, session: Session, thread: ThreadRef, run_id: object) -> None:
        """Write the indexes over all threads, before what they lead to; once in a session."""
        address = keys.ref_text(thread)
        if not self._fence(thread) and not session.is_indexed(address):
            await self._command(
                session, "ZADD", keys.thread_index(keys.shard(address)), "NX", self._clock.now_ms(), address
            )
            session.mark_indexed(address)
        # A task's own id is in the index of tasks already.
        if isinstance(run_id, str) and not (self._fence(thread) and self._lease and run_id == self._lease.task_id):
            member = f"{run_id} {address}"
            if not session.is_indexed(member):
                await self._command(session, "ZADD", keys.run_index(keys.shard(run_id)), 0, member)
                session.mark_indexed(member)

    def _fence(self, thread: ThreadRef) -> str:
        """The lease's fence for the lease's own thread; other threads are written to as by anybody."""
        lease = self._lease
        return lease.fence if lease and thread == (lease.tenant, lease.thread_id) else ""

    def _place(self, config: RunnableConfig) -> Place:
        configurable = config.get("configurable") or {}
        namespace = configurable.get("checkpoint_ns")
        checkpoint_id = get_checkpoint_id(config) if configurable else None
        return Place(
            self._thread(configurable.get("thread_id", "")),
            _checked(namespace, "checkpoint_ns") if namespace is not None else None,
            _checked(checkpoint_id, "checkpoint_id") if checkpoint_id else None,
        )

    def _thread(self, thread_id: object) -> ThreadRef:
        text = str(thread_id)
        if not text:
            raise InvalidRequest(
                ("/configurable/thread_id", "a checkpointer needs a thread_id: it is missing or empty")
            )
        # Anything may be a thread's id to LangGraph; what could not stand in a key's braces is escaped.
        return ThreadRef(self._tenant, ThreadId(quote(text, safe="_.:@-")))

    async def _call(self, session: Session, verb: str, thread: ThreadRef, *args: Arg) -> Reply:
        record = [keys.thread(thread)]
        try:
            return await self._patiently(lambda: session.client.fcall(LIBRARY, verb, record, *args))
        except ValkeyReplyError as error:
            name = unquote(thread.thread_id)
            if error.code == "LEASELOST":
                raise LeaseLost(f"thread {name}: {error.detail}") from None
            if error.code == "CONFLICT":
                raise Conflict(
                    "thread_busy", f"thread {name} is owned by a running task: wait for it to end, or cancel it"
                ) from None
            raise

    async def _command(self, session: Session, *command: Arg) -> Reply:
        return await self._patiently(lambda: session.client.call(*command))

    async def _patiently(self, attempt: Callable[[], Awaitable[Reply]]) -> Reply:
        loop = asyncio.get_running_loop()
        until = loop.time() + self._patience_s
        delay = 0.05
        while True:
            try:
                return await attempt()
            except StoreUnavailable:
                if loop.time() + delay > until:
                    raise
            await asyncio.sleep(delay)
            delay = min(delay * 2, 1.0)


def worth_keeping(writes: Sequence[tuple[str, Any]]) -> Sequence[tuple[str, Any]]:
    """What of a task's writes may be stored: of one that failed or was cancelled, only that.

    LangGraph hands its part of an output over as well, and, when it goes on, takes any output for that of a finished
    node: a node that was cut off between its writes and its edges would never run again, and the graph would end there.
    """
    if any(channel == ERROR for channel, _ in writes):
        return [write for write in writes if write[0] in WRITES_IDX_MAP or write[0] == _ERROR_SOURCE]
    return writes


def _config(thread: ThreadRef, namespace: str, checkpoint_id: str) -> RunnableConfig:
    return {
        "configurable": {
            "thread_id": unquote(thread.thread_id),
            "checkpoint_ns": namespace,
            "checkpoint_id": checkpoint_id,
        }
    }


def _checked(text: str, name: str) -> str:
    """Namespaces and ids are parted by control characters in the index, and by `|` before the id in fields."""
    if not _CONTROL.search(text) and (name != "checkpoint_id" or "|" not in text):
        return text
    forbidden = "control characters" + (" or '|'" if name == "checkpoint_id" else "")
    raise InvalidRequest((f"/configurable/{name}", f"{text!r} holds {forbidden}: name it without"))


def _matches(metadata: CheckpointMetadata, filter: Mapping[str, Any] | None) -> bool:
    return not filter or all(metadata.get(key) == value for key, value in filter.items())


async def _following(found: AsyncGenerator[CheckpointTuple, None]) -> CheckpointTuple | None:
    return await anext(found, None)


async def _finish(found: AsyncGenerator[CheckpointTuple, None]) -> None:
    await found.aclose()
