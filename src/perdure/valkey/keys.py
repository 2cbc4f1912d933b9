"""The names of all keys. People read them, and all keys of one thread share a slot."""

from __future__ import annotations

import zlib
from typing import Final

from perdure.lifecycle.doorbell import ThreadRef
from perdure.lifecycle.ids import DEFAULT_TENANT, TaskId, Tenant, ThreadId, WorkerId

SHARDS: Final = 16
"""How many slots an index is spread over. Part of the stored format: changing it loses what is indexed."""


def hash_tag(ref: ThreadRef) -> str:
    """What stands between the braces: the thread's id, with the tenant before it unless it is the default one."""
    return ref.thread_id if ref.tenant == DEFAULT_TENANT else f"{ref.tenant}/{ref.thread_id}"


def thread(ref: ThreadRef) -> str:
    """Hash: the thread's record (owner, fence, counters); the prefix of all other keys of the thread."""
    return f"thread:{{{hash_tag(ref)}}}"


def task(ref: ThreadRef, task_id: TaskId) -> str:
    """Hash: one task."""
    return f"{thread(ref)}:task:{task_id}"


def tasks(ref: ThreadRef) -> str:
    """Sorted set: the ids of all tasks of the thread, by creation."""
    return f"{thread(ref)}:tasks"


def queue(ref: ThreadRef) -> str:
    """List: the ids of tasks that wait behind the owner, oldest first."""
    return f"{thread(ref)}:queue"


def events(ref: ThreadRef) -> str:
    """Stream: the thread's events, entry id `<seq>-0`."""
    return f"{thread(ref)}:events"


def bell(ref: ThreadRef) -> str:
    """Sharded pub/sub channel: rung when the thread has new events."""
    return f"{thread(ref)}:bell"


def checkpoint(ref: ThreadRef) -> str:
    """Hash: the thread's checkpoints."""
    return f"{thread(ref)}:checkpoint"


def artifacts(ref: ThreadRef, task_id: TaskId) -> str:
    """Hash: the files of one task, `<id>` → description, `<id>:data` → bytes."""
    return f"{thread(ref)}:artifacts:{task_id}"


def shard(text: str) -> int:
    """The shard that indexes `text`; stable over processes and versions."""
    return zlib.crc32(text.encode()) % SHARDS


def task_index(number: int) -> str:
    """Sorted set, all scores 0: `<task_id> <tenant>/<thread_id>` of every task whose id falls into the shard."""
    return f"index:{{{number}}}:tasks"


def run_index(number: int) -> str:
    """Sorted set, all scores 0: `<run_id> <tenant>/<thread_id>` of runs that made checkpoints and are no task."""
    return f"index:{{{number}}}:runs"


def thread_index(number: int) -> str:
    """Sorted set: `<tenant>/<thread_id>`, by creation."""
    return f"index:{{{number}}}:threads"


def live_index(number: int) -> str:
    """Sorted set: `<tenant>/<thread_id>` of threads that may have a live task, by the time of the next look."""
    return f"index:{{{number}}}:live"


def ref_text(ref: ThreadRef) -> str:
    """A thread's address as one member of an index."""
    return f"{ref.tenant}/{ref.thread_id}"


def parse_ref(text: str) -> ThreadRef:
    """The inverse of `ref_text`."""
    tenant, _, thread_id = text.partition("/")
    return ThreadRef(Tenant(tenant), ThreadId(thread_id))


def idempotency(tenant: str, key: str) -> str:
    """String: fingerprint and answer of a POST."""
    return f"idempotency:{{{tenant}/{key}}}"


def worker(worker_id: WorkerId) -> str:
    """String: how a worker last described itself."""
    return f"worker:{{{worker_id}}}"


def orders(worker_id: WorkerId) -> str:
    """Sharded pub/sub channel: what a worker is told."""
    return f"worker:{{{worker_id}}}:orders"


WORKERS: Final = "workers"
"""Sorted set: worker ids by the end of their heartbeat's life."""


def ready(tier: str, priority: str) -> str:
    """Stream: the doorbells of one class of one tier (the Valkey broker)."""
    return f"ready:{{{tier}}}:{priority}"
