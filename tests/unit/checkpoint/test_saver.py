"""What the saver promises beyond LangGraph's interface, and the traps that it must not fall into."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.base import BaseCheckpointSaver, ChannelVersions
from langgraph.checkpoint.base.id import uuid6
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.base import CipherProtocol
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.serde.types import ERROR, INTERRUPT, RESUME, _DeltaSnapshot

from perdure.checkpoint import ValkeySaver
from perdure.errors import InvalidRequest, StoreUnavailable
from perdure.valkey.connection import Client, ValkeyReplyError
from perdure.valkey.embedded import EmbeddedValkey

from .conftest import checkpoint_of, config_of

pytestmark = pytest.mark.anyio


@pytest.fixture
async def saver(client: Client) -> AsyncIterator[ValkeySaver]:
    made = ValkeySaver(client)
    yield made
    await made.aclose()


@pytest.fixture
def thread_id() -> str:
    return str(uuid.uuid4())


# --- writes ---------------------------------------------------------------------------------------------------------
async def test_a_put_waits_for_the_writes_before_it(saver: ValkeySaver, thread_id: str) -> None:
    """LangGraph does not wait for put_writes itself: once put returns they are stored."""
    parent = await saver.aput(config_of(thread_id), checkpoint_of({}), {"step": 0}, {})
    writes = [asyncio.create_task(saver.aput_writes(parent, [("a", "x" * 100_000)], f"t{n}")) for n in range(5)]
    await asyncio.gather(asyncio.create_task(saver.aput(parent, checkpoint_of({}), {"step": 1}, {})))
    assert all(task.done() for task in writes)
    stored = await saver.aget_tuple(parent)
    assert stored is not None
    assert len(stored.pending_writes or []) == 5


@pytest.mark.parametrize("when", ["under way", "failed before"])
async def test_a_put_raises_if_a_write_before_it_failed(
    saver: ValkeySaver, client: Client, thread_id: str, when: str
) -> None:
    """A checkpoint does not claim to be complete; a run that begins afterwards is not troubled."""
    parent = await saver.aput(config_of(thread_id), checkpoint_of({}), {"step": 0}, {})
    in_the_way = f"thread:{{{thread_id}}}:writes:|{parent['configurable']['checkpoint_id']}"
    await client.call("SET", in_the_way, "not a hash")
    write = asyncio.create_task(saver.aput_writes(parent, [("a", 1)], "t"))
    if when == "failed before":
        await asyncio.wait([write])
    put = asyncio.create_task(saver.aput(parent, checkpoint_of({}), {"step": 1}, {}))
    for task in (write, put):
        with pytest.raises(ValkeyReplyError, match="WRONGTYPE"):
            await task
    write = asyncio.create_task(saver.aput_writes(parent, [("a", 1)], "t"))
    await asyncio.wait([write])
    assert write.exception()
    await client.call("DEL", in_the_way)
    await saver.aget_tuple(config_of(thread_id))
    await saver.aput(parent, checkpoint_of({}), {"step": 1}, {})


async def test_writes_come_back_in_the_order_of_their_task_paths(saver: ValkeySaver, thread_id: str) -> None:
    """By path, task and index, whatever the order of arrival; special writes as LangGraph indexes them."""
    parent = await saver.aput(config_of(thread_id), checkpoint_of({}), {"step": 0}, {})
    memory = InMemorySaver()
    await memory.aput(config_of(thread_id), checkpoint_of({}, 1, parent["configurable"]["checkpoint_id"]), {}, {})
    for task_id, path in (("z", "~b"), ("a", "~c"), ("m", "~a"), ("k", ""), ("b", "~a")):
        for one in (saver, memory):
            many = [(f"channel{n}", f"{task_id}{n}") for n in range(12)]
            await one.aput_writes(parent, many, task_id, path)
            await one.aput_writes(parent, [(INTERRUPT, "i"), (RESUME, "r")], task_id, path)
    ours, theirs = await saver.aget_tuple(parent), await memory.aget_tuple(parent)
    assert ours is not None
    assert theirs is not None
    assert ours.pending_writes == theirs.pending_writes


async def test_a_repeated_write_keeps_the_first_and_a_special_one_the_last(saver: ValkeySaver, thread_id: str) -> None:
    """A retried task does not change what it wrote; its newest error or interrupt counts."""
    parent = await saver.aput(config_of(thread_id), checkpoint_of({}), {"step": 0}, {})
    for turn in (1, 2):
        await saver.aput_writes(parent, [("a", turn)], "t")
        await saver.aput_writes(parent, [(ERROR, turn)], "t")
    stored = await saver.aget_tuple(parent)
    assert stored is not None
    assert stored.pending_writes == [("t", ERROR, 2), ("t", "a", 1)]


async def test_a_value_that_a_channel_took_over_is_stored_once(
    saver: ValkeySaver, client: Client, thread_id: str
) -> None:
    """A large write becomes a pointer to the blob of the same bytes, and is read as before, after a prune too."""
    value = "x" * 50_000
    parent = await saver.aput(config_of(thread_id), checkpoint_of({}), {"step": 0}, {})
    await saver.aput_writes(parent, [("big", value), ("other", "y" * 5000)], "t", "~path")
    before = await saver.aget_tuple(parent)
    await saver.aput(parent, checkpoint_of({"big": value}), {"step": 1}, {"big": 1})
    after = await saver.aget_tuple(parent)
    assert before is not None
    assert after is not None
    assert after.pending_writes == before.pending_writes
    key = f"thread:{{{thread_id}}}:writes:|{parent['configurable']['checkpoint_id']}"
    assert await client.call("HSTRLEN", key, "t|0") < 100
    assert await client.call("HSTRLEN", key, "t|1") > 5000
    await saver.acopy_thread(thread_id, f"{thread_id}-copy")
    copied = await saver.aget_tuple(config_of(f"{thread_id}-copy", parent["configurable"]["checkpoint_id"]))
    assert copied is not None
    assert copied.pending_writes == before.pending_writes


# --- what is stored -------------------------------------------------------------------------------------------------
async def test_only_what_changed_is_stored(saver: ValkeySaver, client: Client, thread_id: str) -> None:
    """Ten checkpoints with one small channel changing share the one large value."""
    config = config_of(thread_id)
    versions: ChannelVersions = {"big": 1}
    values: dict[str, Any] = {"big": "x" * 200_000}
    for step in range(10):
        values["small"], versions["small"] = step, step
        checkpoint = checkpoint_of(dict(values))
        checkpoint["channel_versions"] = dict(versions)
        new: ChannelVersions = versions if step == 0 else {"small": step}
        config = await saver.aput(config, checkpoint, {"step": step}, new)
    lengths = [len(value) for value in await client.call("HVALS", f"thread:{{{thread_id}}}:blobs")]
    assert len(lengths) == 11
    assert sum(lengths) < 201_000
    assert [t.checkpoint["channel_values"] async for t in saver.alist(config_of(thread_id))] == [
        {**values, "small": step} for step in reversed(range(10))
    ]


async def test_a_person_can_read_the_checkpoint_hash(saver: ValkeySaver, client: Client, thread_id: str) -> None:
    """Every field is `<ns>|<id>` with two lines of JSON."""
    config = await saver.aput(config_of(thread_id), checkpoint_of({"a": 1}), {"source": "input", "step": 0}, {"a": 1})
    checkpoint_id = config["configurable"]["checkpoint_id"]
    stored = await client.call("HGETALL", f"thread:{{{thread_id}}}:checkpoint")
    assert stored == {
        f"|{checkpoint_id}".encode(): (
            f'{{"v":4,"id":"{checkpoint_id}","ts":"2026-01-01T00:00:00+00:00","channel_versions":{{"a":1}},'
            '"versions_seen":{},"updated_channels":null,"parent_id":null}\n{"source":"input","step":0}'
        ).encode()
    }


@dataclasses.dataclass
class Own:
    """A type that LangGraph does not know."""

    n: int


async def test_types_of_ones_own_need_the_allow_list(saver: ValkeySaver, client: Client, thread_id: str) -> None:
    """Strict by default; with_allowlist makes a copy that reads them and shares the writes under way."""
    config = await saver.aput(config_of(thread_id), checkpoint_of({"a": Own(1)}), {"step": 0}, {"a": 1})
    strict = await saver.aget_tuple(config)
    assert strict is not None
    assert not isinstance(strict.checkpoint["channel_values"]["a"], Own)
    copy = saver.with_allowlist([(Own.__module__, "Own")])
    assert copy is not saver
    told = await copy.aget_tuple(config)
    assert told is not None
    assert told.checkpoint["channel_values"]["a"] == Own(1)

    await client.call("SET", f"thread:{{{thread_id}}}:writes:|{config['configurable']['checkpoint_id']}", "in the way")
    write = asyncio.create_task(copy.aput_writes(config, [("a", 1)], "t"))
    await asyncio.wait([write])
    assert write.exception()
    with pytest.raises(ValkeyReplyError):
        await saver.aput(config, checkpoint_of({}), {"step": 1}, {})


async def test_pickle_is_neither_written_nor_read(saver: ValkeySaver, client: Client, thread_id: str) -> None:
    """A value that only pickle could take is refused, and a pickle in the store is not loaded."""
    with pytest.raises(TypeError):
        await saver.aput(config_of(thread_id), checkpoint_of({"a": threading.Lock()}), {"step": 0}, {"a": 1})
    config = await saver.aput(config_of(thread_id), checkpoint_of({"a": 1}), {"step": 0}, {"a": 1})
    await client.call("HSET", f"thread:{{{thread_id}}}:blobs", "|a|#1", b"pickle\n\x80\x04K\x01.")
    with pytest.raises(NotImplementedError, match="pickle"):
        await saver.aget_tuple(config)


class Xor(CipherProtocol):
    """Not a cipher, but not plain text either."""

    def encrypt(self, plaintext: bytes) -> tuple[str, bytes]:
        return "xor", bytes(byte ^ 0x55 for byte in plaintext)

    def decrypt(self, ciphername: str, ciphertext: bytes) -> bytes:
        assert ciphername == "xor"
        return bytes(byte ^ 0x55 for byte in ciphertext)


async def test_values_and_writes_can_be_encrypted(client: Client, thread_id: str) -> None:
    """With LangGraph's EncryptedSerializer no value can be read in the store, and with_allowlist still works."""
    inner = JsonPlusSerializer(allowed_msgpack_modules=None)
    saver: BaseCheckpointSaver[str] = ValkeySaver(client, serde=EncryptedSerializer(Xor(), inner))
    saver = saver.with_allowlist([(Own.__module__, "Own")])
    values = {"a": "secret " * 400, "b": Own(2)}
    config = await saver.aput(config_of(thread_id), checkpoint_of(values), {"step": 0}, {"a": 1, "b": 1})
    await saver.aput_writes(config, [("a", "secret " * 400)], "t")
    await saver.aput(config, checkpoint_of(values, 2), {"step": 0}, {"a": 2, "b": 2})
    for key in await client.call("KEYS", f"thread:{{{thread_id}}}:*"):
        if await client.call("TYPE", key) == b"hash":
            assert not any(b"secret" in value for value in await client.call("HVALS", key))
    stored = await saver.aget_tuple(config)
    assert stored is not None
    assert stored.checkpoint["channel_values"] == values
    assert stored.pending_writes == [("t", "a", "secret " * 400)]


# --- maintenance ----------------------------------------------------------------------------------------------------
async def chain(saver: ValkeySaver, thread_id: str, snapshots: set[int], length: int = 6) -> list[str]:
    """Checkpoints whose channel `d` is a delta channel, with a snapshot at some steps."""
    config, ids = config_of(thread_id), []
    counters = 0
    for step in range(length):
        counters = 0 if step in snapshots else counters + 1
        values = {"d": _DeltaSnapshot([f"up to {step}"])} if step in snapshots else {}
        checkpoint = checkpoint_of(values)
        checkpoint["channel_versions"] = {"d": step}
        metadata: Any = {"step": step}
        if counters:
            metadata["counters_since_delta_snapshot"] = {"d": (counters, counters)}
        config = await saver.aput(config, checkpoint, metadata, {"d": step} if values else {})
        await saver.aput_writes(config, [("d", [f"at {step}"])], "t")
        ids.append(config["configurable"]["checkpoint_id"])
    return ids


@pytest.mark.parametrize(("snapshots", "kept"), [({0, 2}, 4), ({5}, 1), (set[int](), 6)])
async def test_prune_keeps_what_delta_channels_are_made_of(
    saver: ValkeySaver, thread_id: str, snapshots: set[int], kept: int
) -> None:
    """The ancestors back to the last snapshot stay, so the newest checkpoint's channel is the same after it."""
    ids = await chain(saver, thread_id, snapshots)
    before = await saver.aget_delta_channel_history(config=config_of(thread_id), channels=["d"])
    await saver.aprune([thread_id])
    left = [t.checkpoint["id"] async for t in saver.alist(config_of(thread_id))]
    assert left == ids[::-1][:kept]
    if 5 not in snapshots:
        assert await saver.aget_delta_channel_history(config=config_of(thread_id), channels=["d"]) == before
    await saver.aprune([thread_id])
    assert [t.checkpoint["id"] async for t in saver.alist(config_of(thread_id))] == left


async def test_a_long_delta_history_is_walked_in_pages(
    saver: ValkeySaver, thread_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several calls to the server give what one would."""
    await chain(saver, thread_id, {1}, length=12)
    whole = await saver.aget_delta_channel_history(config=config_of(thread_id), channels=["d", "none"])
    monkeypatch.setattr("perdure.checkpoint.saver.HISTORY_PAGE", 3)
    assert await saver.aget_delta_channel_history(config=config_of(thread_id), channels=["d", "none"]) == whole
    assert [write[2] for write in whole["d"]["writes"]] == [[f"at {n}"] for n in range(1, 11)]
    assert whole["d"]["seed"] == _DeltaSnapshot(["up to 1"])


async def test_prune_and_deletion_leave_no_value_that_nobody_needs(
    saver: ValkeySaver, client: Client, thread_id: str
) -> None:
    """Of all keys, only what the kept checkpoint needs remains; after delete_thread only the bare record."""
    config = config_of(thread_id)
    for step in range(4):
        config["metadata"] = {"run_id": f"{thread_id}-{step % 2}"}
        config = await saver.aput(config, checkpoint_of({"a": step}, step), {"step": step}, {"a": step})
        await saver.aput_writes(config, [("a", step)], "t")
    await saver.adelete_for_runs([f"{thread_id}-1"])
    newest = await saver.aget_tuple(config_of(thread_id))
    assert newest is not None
    assert newest.metadata["step"] == 2
    assert sorted(await client.call("HKEYS", f"thread:{{{thread_id}}}:blobs")) == [b"|a|#0", b"|a|#2"]
    await saver.aprune([thread_id])
    assert await client.call("HKEYS", f"thread:{{{thread_id}}}:blobs") == [b"|a|#2"]
    assert len(await client.call("KEYS", f"thread:{{{thread_id}}}:writes:*")) == 1
    await saver.adelete_thread(thread_id)
    assert await client.call("KEYS", f"thread:{{{thread_id}}}*") == [f"thread:{{{thread_id}}}".encode()]
    assert b"head" not in await client.call("HKEYS", f"thread:{{{thread_id}}}")


async def test_a_copy_has_everything_and_lives_by_itself(saver: ValkeySaver, thread_id: str) -> None:
    """All namespaces, metadata that is no JSON, writes, run ids; deleting the source does not touch it."""
    config = config_of(thread_id)
    config["metadata"] = {"run_id": f"{thread_id}-run"}
    for namespace in ("", "sub:1"):
        config["configurable"]["checkpoint_ns"] = namespace
        await saver.aput(config, checkpoint_of({"a": {1, 2}}), {"step": 0, "odd": {3}}, {"a": 1})  # type: ignore[typeddict-unknown-key]
    await saver.aput_writes(config_of(thread_id, str(uuid6())), [("a", b"raw")], "t")
    source = [t async for t in saver.alist({"configurable": {"thread_id": thread_id}})]
    copy = f"{thread_id}-copy"
    await saver.acopy_thread(thread_id, copy)
    await saver.acopy_thread(f"{thread_id}-none", copy)
    await saver.acopy_thread(copy, copy)
    await saver.adelete_thread(thread_id)
    copied = [t async for t in saver.alist({"configurable": {"thread_id": copy}})]
    assert [(t.checkpoint, t.metadata, t.pending_writes) for t in copied] == [
        (t.checkpoint, t.metadata, t.pending_writes) for t in source
    ]
    await saver.adelete_for_runs([f"{thread_id}-run"])
    assert [t async for t in saver.alist({"configurable": {"thread_id": copy}})] == []


# --- hooks, time and bad input --------------------------------------------------------------------------------------
async def test_the_hook_runs_before_a_put_and_lets_subgraphs_speak_first(client: Client, thread_id: str) -> None:
    """In a subgraph the event loop turns before it, so that what was scheduled by then is there."""
    said: list[str] = []

    async def before_put() -> None:
        said.append("flushed")

    async def relay(hops: int) -> None:
        for _ in range(hops):
            await asyncio.sleep(0)
        said.append("part")

    saver = ValkeySaver(client, before_put=before_put)
    await saver.aput(config_of(thread_id), checkpoint_of({}), {"step": 0}, {})
    assert said == ["flushed"]
    travelling = asyncio.create_task(relay(5))
    await saver.aput(config_of(thread_id, None, "sub:1"), checkpoint_of({}), {"step": 0}, {})
    await travelling
    assert said == ["flushed", "part", "flushed"]


@pytest.mark.parametrize(
    ("config", "pointer"),
    [
        ({"configurable": {"checkpoint_ns": ""}}, "/configurable/thread_id"),
        ({"configurable": {"thread_id": "t", "checkpoint_ns": "a\x00"}}, "/configurable/checkpoint_ns"),
        ({"configurable": {"thread_id": "t", "checkpoint_id": "a|b"}}, "/configurable/checkpoint_id"),
    ],
)
async def test_a_place_that_cannot_be_stored_is_refused(saver: ValkeySaver, config: Any, pointer: str) -> None:
    """The error names the field."""
    for call in (saver.aget_tuple(config), saver.aput(config, checkpoint_of({}), {}, {})):
        with pytest.raises(InvalidRequest, match=pointer):
            await call
    with pytest.raises(InvalidRequest):
        await saver.aput_writes(config_of("t"), [("a", 1)], "t")
    with pytest.raises(InvalidRequest, match="keep_latest"):
        await saver.aprune(["t"], strategy="keep_some")


async def test_a_patient_saver_waits_for_the_store_to_come_back(tmp_path: Path, thread_id: str) -> None:
    """A put made while the server is away is stored when it is back; an impatient one raises at once."""
    server = EmbeddedValkey(tmp_path)
    await server.start()
    async with Client(server.url) as client:
        saver = ValkeySaver(client, patience_s=60)
        config = await saver.aput(config_of(thread_id), checkpoint_of({"a": 1}), {"step": 0}, {"a": 1})
        await server.stop()
        with pytest.raises(StoreUnavailable):
            await ValkeySaver(client).aget_tuple(config)
        write = asyncio.create_task(saver.aput_writes(config, [("a", 2)], "t"))
        put = asyncio.create_task(saver.aput(config, checkpoint_of({"a": 2}, 2), {"step": 1}, {"a": 2}))
        await server.start()
        await asyncio.gather(write, put)
        parent = await saver.aget_tuple(config)
        assert parent is not None
        assert parent.pending_writes == [("t", "a", 2)]
        newest = await saver.aget_tuple(config_of(thread_id))
        assert newest is not None
        assert newest.checkpoint["channel_values"] == {"a": 2}
    await server.stop()


def test_sync_calls_from_many_threads_share_one_connection(valkey: EmbeddedValkey, thread_id: str) -> None:
    """And a forgotten saver takes its thread with it."""
    before = threading.active_count()
    saver = ValkeySaver.from_url(valkey.url)
    config = saver.put(config_of(thread_id), checkpoint_of({}), {"step": 0}, {})
    writers = [
        threading.Thread(target=saver.put_writes, args=(config, [("a", n)], f"t{n}"), name=f"w{n}") for n in range(8)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    stored = saver.get_tuple(config)
    assert stored is not None
    assert len(stored.pending_writes or []) == 8
    assert threading.active_count() == before + 1
    del saver
    assert threading.active_count() == before


def test_a_closed_saver_says_so(valkey: EmbeddedValkey) -> None:
    """Closing twice, and before the first call, is fine."""
    saver = ValkeySaver.from_url(valkey.url)
    saver.close()
    saver.close()
    with pytest.raises(StoreUnavailable, match="closed"):
        saver.get_tuple(config_of("t"))
