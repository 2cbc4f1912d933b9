"""The stored format of checkpoints, held by files: what an older Perdure stored stays readable.

`golden/thread-v*.json` are dumps of all keys of a thread. A file that is there is never changed. When the format
grows, add a new one: `PERDURE_GOLDEN=thread-v2.json pytest tests/conformance/test_saver_golden.py` writes it.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.base import Checkpoint, CheckpointTuple
from langgraph.checkpoint.serde.types import INTERRUPT, TASKS, _DeltaSnapshot

from perdure.checkpoint import ValkeySaver
from perdure.valkey.connection import Client
from perdure.valkey.embedded import EmbeddedValkey

pytestmark = pytest.mark.anyio
GOLDEN = Path(__file__).parent / "golden"
FILES = {file.stem: json.loads(file.read_text()) for file in sorted(GOLDEN.glob("thread-v*.json"))}
NEWEST = "thread-v1"
FIRST, SECOND, INNER = (f"1f1e6c31-0000-6000-8000-00000000000{n}" for n in (1, 2, 3))


@pytest.fixture
async def client(valkey: EmbeddedValkey) -> AsyncIterator[Client]:
    async with Client(valkey.url) as made:
        yield made


def checkpoint(checkpoint_id: str, values: dict[str, Any], versions: dict[str, Any]) -> Checkpoint:
    return Checkpoint(
        v=4,
        id=checkpoint_id,
        ts="2026-01-01T00:00:00+00:00",
        channel_values=values,
        channel_versions=versions,
        versions_seen={"__input__": {}, "plan": {"branch:to:plan": 1.5}},
        updated_channels=["messages"],
    )


BIG = "a value that a channel took over as it was written " * 40
VALUES: list[dict[str, Any]] = [
    {"messages": ["hello"], "raw": b"\x00\xff\n", "none": None, "delta": _DeltaSnapshot(["seed"])},
    {"messages": ["hello", "Grüße"], "raw": b"\x00\xff\n", "none": None, "big": BIG},
    {"n": 3.5},
]
VERSIONS: list[dict[str, Any]] = [
    {"messages": f"{1:032}.0af3", "raw": 1, "none": 1.5, "delta": 1, "empty": 1},
    {"messages": f"{2:032}.17bc", "raw": 1, "none": 1.5, "delta": 2, "empty": 2, "big": 1},
    {"n": 1},
]
WRITES: list[tuple[str, str, str, list[tuple[str, Any]]]] = [
    (FIRST, "task-b", "~__pregel_pull, plan", [("messages", ["Grüße"]), ("delta", ["two"]), ("big", BIG)]),
    (FIRST, "task-a", "~__pregel_push, 0", [("delta", ["one"]), (TASKS, {"node": "work"})]),
    (SECOND, "task-c", "", [(INTERRUPT, ["sure?"])]),
]


async def write(saver: ValkeySaver, thread_id: str) -> None:
    """The thread of the golden files."""

    def config(checkpoint_id: str | None, namespace: str = "") -> Any:
        return {
            "configurable": {"thread_id": thread_id, "checkpoint_ns": namespace, "checkpoint_id": checkpoint_id},
            "metadata": {"run_id": "run-1", "user": "ada"},
        }

    metadata: Any = {"source": "input", "step": -1, "parents": {}}
    await saver.aput(config(None), checkpoint(FIRST, VALUES[0], VERSIONS[0]), metadata, VERSIONS[0])
    for at, task_id, path, writes in WRITES[:2]:
        await saver.aput_writes(config(at), writes, task_id, path)
    new = {channel: VERSIONS[1][channel] for channel in ("messages", "delta", "empty", "big")}
    metadata = {"source": "loop", "step": 0, "parents": {}, "counters_since_delta_snapshot": {"delta": (1, 1)}}
    await saver.aput(config(FIRST), checkpoint(SECOND, VALUES[1], VERSIONS[1]), metadata, new)
    for at, task_id, path, writes in WRITES[2:]:
        await saver.aput_writes(config(at), writes, task_id, path)
    metadata = {"source": "loop", "step": 0, "parents": {"": SECOND}, "odd": {uuid.UUID(int=1)}}
    await saver.aput(config(None, "plan:1|deep:2"), checkpoint(INNER, VALUES[2], VERSIONS[2]), metadata, VERSIONS[2])


async def dump(client: Client, thread_id: str) -> dict[str, Any]:
    """All keys of the thread's checkpoints, bytes as Latin-1; of the record what the saver alone decides."""
    found: dict[str, Any] = {}
    prefix = f"thread:{{{thread_id}}}"
    found[""] = {"head": (await client.call("HGET", prefix, "head")).decode()}
    for key in sorted(await client.call("KEYS", f"{prefix}:*")):
        name = key.decode()[len(prefix) :]
        if await client.call("TYPE", key) == b"zset":
            found[name] = [member.decode("latin-1") for member in await client.call("ZRANGE", key, 0, -1)]
        else:
            pairs = sorted((await client.call("HGETALL", key)).items())
            found[name] = {field.decode("latin-1"): value.decode("latin-1") for field, value in pairs}
    return found


async def restore(client: Client, thread_id: str, stored: dict[str, Any]) -> None:
    for name, content in stored.items():
        key = f"thread:{{{thread_id}}}{name}"
        if isinstance(content, list):
            for member in content:
                await client.call("ZADD", key, 0, member.encode("latin-1"))
        else:
            for field, value in content.items():
                await client.call("HSET", key, field.encode("latin-1"), value.encode("latin-1"))


async def test_todays_code_stores_what_the_newest_file_says(client: Client) -> None:
    """Byte for byte; a difference is a new format and needs a new file beside the old ones."""
    thread_id = str(uuid.uuid4())
    await write(ValkeySaver(client), thread_id)
    stored = await dump(client, thread_id)
    if name := os.environ.get("PERDURE_GOLDEN"):
        with (GOLDEN / name).open("x") as file:
            json.dump(stored, file, indent=1, sort_keys=True)
            file.write("\n")
    assert stored == FILES[NEWEST]


@pytest.mark.parametrize("name", FILES)
async def test_every_stored_format_is_read(client: Client, name: str) -> None:
    """Structure, values of all kinds, metadata, writes in order, namespaces and delta history, and it can go on."""
    thread_id = str(uuid.uuid4())
    await restore(client, thread_id, FILES[name])
    saver = ValkeySaver(client)
    config: Any = {"configurable": {"thread_id": thread_id}}

    newest = await saver.aget_tuple(config)
    assert newest is not None
    assert newest.checkpoint == checkpoint(SECOND, VALUES[1], VERSIONS[1])
    assert newest.metadata == {
        "source": "loop",
        "step": 0,
        "parents": {},
        "counters_since_delta_snapshot": {"delta": [1, 1]},
        "run_id": "run-1",
        "user": "ada",
    }
    assert newest.parent_config
    assert newest.parent_config["configurable"]["checkpoint_id"] == FIRST
    assert newest.pending_writes == [("task-c", INTERRUPT, ["sure?"])]

    first = await saver.aget_tuple(newest.parent_config)
    assert first is not None
    assert first.checkpoint == checkpoint(FIRST, VALUES[0], VERSIONS[0])
    assert first.parent_config is None
    assert first.pending_writes == [
        ("task-b", "messages", ["Grüße"]),
        ("task-b", "delta", ["two"]),
        ("task-b", "big", BIG),
        ("task-a", "delta", ["one"]),
        ("task-a", TASKS, {"node": "work"}),
    ]

    every: list[CheckpointTuple] = [found async for found in saver.alist(config)]
    assert [found.config["configurable"]["checkpoint_id"] for found in every] == [SECOND, FIRST, INNER]
    assert every[2].metadata["odd"] == {uuid.UUID(int=1)}  # type: ignore[typeddict-item]
    assert every[2].checkpoint["channel_values"] == VALUES[2]
    history = await saver.aget_delta_channel_history(config=config, channels=["delta"])
    assert history["delta"] == {
        "seed": _DeltaSnapshot(["seed"]),
        "writes": [("task-b", "delta", ["two"]), ("task-a", "delta", ["one"])],
    }
    await saver.aprune([thread_id])
    assert [found async for found in saver.alist(config)] == every
