"""Events: their encoded form, and that the store's functions tell a status exactly as Python does."""

from __future__ import annotations

from typing import Any

import msgspec
import orjson
import pytest

from perdure.clock import SystemClock
from perdure.lifecycle.events import Event, Method, Tag, encode_body, end_frame, sse_frame
from perdure.lifecycle.ids import TaskId, WorkerId
from perdure.lifecycle.task import Interrupt, TaskError
from perdure.lifecycle.transitions import Status
from perdure.store.base import TaskStore
from perdure.store.memory import MemoryStore
from perdure.store.valkey import ValkeyStore
from perdure.testing.samples import make_spec, ref_of
from perdure.valkey.connection import Client
from perdure.valkey.embedded import EmbeddedValkey

ODD = 'a "quoted" \\ back\nslash \u2028 é 🎈 \x01'


def body_of(**fields: Any) -> bytes:
    base: dict[str, Any] = {
        "method": Method.CUSTOM,
        "tag": Tag.CRITIC_EVAL,
        "namespace": ("reflect:b9da", "deep:77"),
        "timestamp_ms": 1_795_373_359_303,
        "task_id": TaskId("t-1"),
        "step": 3,
        "attempt": 2,
        "worker": "w-b",
        "data": {"text": ODD},
        "node": "critic",
    }
    return encode_body(**{**base, **fields})


def event_of(body: bytes) -> Event:
    return Event("k3f9", 4217, Method.CUSTOM, Tag.CRITIC_EVAL, "reflect:b9da|deep:77", TaskId("t-1"), body)


def test_a_body_with_its_prefix_is_the_whole_event() -> None:
    decoded = event_of(body_of()).decoded()
    assert list(decoded) == ["type", "event_id", "seq", "method", "params"]
    assert (decoded["type"], decoded["event_id"], decoded["seq"]) == ("event", "k3f9:4217", 4217)
    params = decoded["params"]
    assert params["path"] == ["reflect", "deep", "critic"]
    assert (params["agent"], params["node"]) == ("deep", "critic")
    assert params["run_id"] == params["task_id"] == "t-1"
    assert params["data"] == {"text": ODD}


def test_a_frame_is_one_id_one_event_one_line_of_data() -> None:
    frame = sse_frame(event_of(body_of()))
    assert frame.endswith(b"\n\n")
    lines = frame[:-2].split(b"\n")
    assert lines[:2] == [b"id: k3f9:4217", b"event: custom"]
    assert len(lines) == 3, "a line break in the text is escaped, or a reader would cut the event there"
    assert orjson.loads(lines[2].removeprefix(b"data: ")) == event_of(body_of()).decoded()


def test_the_end_is_told_without_a_number() -> None:
    assert b"id:" not in end_frame(TaskId("t-1"), Status.DEAD)
    assert b'"status":"dead"' in end_frame(TaskId("t-1"), Status.DEAD)


def test_the_root_has_no_agent_and_a_given_path_stands() -> None:
    params = orjson.loads(b"{" + body_of(namespace=(), path=["a", "b"], node=None))["params"]
    assert (params["namespace"], params["agent"], params["path"]) == ([], None, ["a", "b"])


def test_what_is_not_json_is_refused() -> None:
    with pytest.raises(TypeError):
        body_of(data={"socket": object()})


async def _walk(store: TaskStore) -> list[dict[str, Any]]:
    """Lead tasks through every status and return what the stream said about it."""
    worker = WorkerId("w-1")
    told: list[dict[str, Any]] = []

    async def claim(spec: Any) -> Any:
        claimed = await store.claim(ref_of(spec), worker, 60_000)
        assert claimed is not None
        return claimed.lease

    async def read(spec: Any) -> None:
        for event in (await store.events(ref_of(spec).thread, 0)).events:
            params = event.decoded()["params"]
            assert params.pop("task_id") == params.pop("run_id") == spec.task_id
            assert isinstance(params.pop("timestamp"), int)
            told.append({"method": event.method, "tag": event.tag, "namespace": event.namespace, "params": params})

    happy = make_spec(graph=ODD, tier="cpu")
    await store.create(happy)
    await store.pause(await claim(happy), [Interrupt("i-1", {"ask": 1})], "cp-1")
    await store.resume(ref_of(happy), value=1)
    await store.give_back(await claim(happy), "hand_over", tier="gpu")
    await store.succeed(await claim(happy), b"{}")
    await read(happy)

    failing = make_spec()
    await store.create(failing)
    error = TaskError("ValueError", ODD, node="plan", traceback="long", worker=worker)
    await store.fail(await claim(failing), error, "graph_error")
    await store.requeue(ref_of(failing))
    await store.cancel(ref_of(failing))
    await read(failing)

    dying = make_spec(max_attempts=2)
    await store.create(dying)
    for _ in range(2):
        await claim(dying)
        await store.abandon(ref_of(dying).thread, worker)
    await read(dying)

    displaced = make_spec()
    await store.create(displaced)
    later = make_spec(thread_id=displaced.thread_id, multitask="interrupt")
    later = msgspec.structs.replace(later, multitask=msgspec.convert("interrupt", type(displaced.multitask)))
    await store.create(later)
    for event in (await store.events(ref_of(later).thread, 0)).events:
        params = event.decoded()["params"]
        told.append({"status": params["data"]["status"], "reason": params["data"].get("reason"), "tag": event.tag})
    return told


@pytest.mark.anyio
async def test_the_stores_functions_tell_a_status_exactly_as_python_does(valkey: EmbeddedValkey) -> None:
    """The events that Lua makes decode to the same keys and values as those of `lifecycle_event`."""
    expected = await _walk(MemoryStore(SystemClock()))
    async with Client(valkey.url) as client:
        store = await ValkeyStore.open(client, SystemClock())
        try:
            found = await _walk(store)
        finally:
            await store.aclose()
    assert len(found) == len(expected)
    for mine, theirs in zip(found, expected, strict=True):
        assert mine == theirs
