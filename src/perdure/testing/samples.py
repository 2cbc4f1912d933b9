"""Ready-made values for tests: specs of tasks, events, and a clock that moves only when told."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec

from perdure.clock import SystemClock
from perdure.lifecycle.doorbell import TaskRef
from perdure.lifecycle.events import Method, NewEvent, Tag, encode_body
from perdure.lifecycle.ids import DEFAULT_TENANT, TaskId, Tenant, ThreadId
from perdure.lifecycle.task import TaskSpec

_numbers = itertools.count(1)
_system = SystemClock()


def make_spec(**fields: Any) -> TaskSpec:
    """A spec with fresh ids; give the fields that matter to the test."""
    task_id = TaskId(fields.pop("task_id", _system.uuid7()))
    base: dict[str, Any] = {
        "task_id": task_id,
        "thread_id": ThreadId(f"thread-{next(_numbers)}-{task_id[-6:]}"),
        "graph": "echo",
        "tier": "cpu",
        "created_ms": _system.now_ms(),
        "input": msgspec.Raw(b'{"text":"hello"}'),
    }
    return TaskSpec(**{**base, **fields})


def ref_of(spec: TaskSpec) -> TaskRef:
    """Where a spec's task lives."""
    return TaskRef(spec.tenant, spec.thread_id, spec.task_id)


def make_event(task_id: str, text: str = "hello", tag: str = Tag.ANSWER) -> NewEvent:
    """A small custom event."""
    body = encode_body(
        method=Method.CUSTOM,
        tag=tag,
        namespace=(),
        timestamp_ms=0,
        task_id=TaskId(task_id),
        step=0,
        attempt=1,
        worker="w",
        data={"text": text},
    )
    return NewEvent(Method.CUSTOM, tag, "", body)


class FakeClock:
    """A clock that moves only when told; ids and nonces stay random."""

    def __init__(self, now_ms: int = 1_800_000_000_000) -> None:
        self.time_ms = now_ms

    def now_ms(self) -> int:
        return self.time_ms

    def monotonic(self) -> float:
        return self.time_ms / 1000

    def uuid7(self) -> str:
        return _system.uuid7()

    def nonce(self) -> str:
        return _system.nonce()

    def advance(self, ms: int) -> None:
        """Let time pass."""
        self.time_ms += ms


TENANT_A = Tenant("acme")
__all__ = ["DEFAULT_TENANT", "TENANT_A", "FakeClock", "make_event", "make_spec", "ref_of"]
