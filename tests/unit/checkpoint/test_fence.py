"""Only the holder of a thread's lease writes to it."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable

import msgspec
import pytest
from langgraph.checkpoint.base.id import uuid6

from perdure.checkpoint import ValkeySaver
from perdure.errors import Conflict, LeaseLost
from perdure.lifecycle.ids import TaskId, WorkerId
from perdure.lifecycle.task import Multitask
from perdure.testing.samples import make_spec, ref_of
from perdure.valkey import keys
from perdure.valkey.connection import Client

from .conftest import Running, checkpoint_of, config_of

pytestmark = pytest.mark.anyio

WRITES: dict[str, Callable[[ValkeySaver, Running], Awaitable[object]]] = {
    "put": lambda saver, run: saver.aput(run.config(), checkpoint_of({"a": 1}), {"step": 9}, {"a": 1}),
    "put in a subgraph": lambda saver, run: saver.aput(run.config(None, "s:1"), checkpoint_of({}), {"step": 9}, {}),
    "put_writes": lambda saver, run: saver.aput_writes(run.config(str(uuid6())), [("a", 1)], "t"),
    "delete_thread": lambda saver, run: saver.adelete_thread(run.spec.thread_id),
    "delete_for_runs": lambda saver, run: saver.adelete_for_runs([run.spec.task_id]),
    "prune": lambda saver, run: saver.aprune([run.spec.thread_id]),
    "prune away": lambda saver, run: saver.aprune([run.spec.thread_id], strategy="delete"),
    "copy_thread": lambda saver, run: saver.acopy_thread(f"{run.spec.thread_id}-source", run.spec.thread_id),
}


async def dump(client: Client, thread_id: str) -> dict[bytes, object]:
    """All that is stored of a thread's checkpoints."""
    found: dict[bytes, object] = {}
    for key in sorted(await client.call("KEYS", f"thread:{{{thread_id}}}*")):
        kind = await client.call("TYPE", key)
        if kind == b"hash":
            found[key] = await client.call("HGETALL", key)
        elif kind == b"zset":
            found[key] = await client.call("ZRANGE", key, 0, -1)
    return found


@pytest.fixture
async def begun(running: Running) -> Running:
    """The task has a checkpoint with writes, and there is a thread to copy from."""
    config = await running.saver.aput(
        {**running.config(), "metadata": {"run_id": running.spec.task_id}},
        checkpoint_of({"a": 0}),
        {"step": 1},
        {"a": 1},
    )
    await running.saver.aput_writes(config, [("a", 0)], "t")
    other = config_of(f"{running.spec.thread_id}-source")
    await running.saver.aput(other, checkpoint_of({"b": 0}), {"step": 1}, {"b": 1})
    return running


@pytest.mark.parametrize("verb", WRITES)
async def test_a_holder_whose_lease_is_lost_writes_nothing(begun: Running, verb: str) -> None:
    """Another attempt owns the thread: LeaseLost, and not a byte is changed."""
    await begun.store.give_back(begun.lease, "drain")
    assert await begun.store.claim(ref_of(begun.spec), WorkerId("next"), 60_000)
    before = await dump(begun.client, begun.spec.thread_id)
    with pytest.raises(LeaseLost, match=begun.spec.thread_id):
        await WRITES[verb](begun.saver, begun)
    assert await dump(begun.client, begun.spec.thread_id) == before


@pytest.mark.parametrize("verb", WRITES)
async def test_the_token_alone_is_not_enough(begun: Running, verb: str) -> None:
    """A lease of the same number with another nonce is refused."""
    forged = ValkeySaver(begun.client, lease=msgspec.structs.replace(begun.lease, nonce="0" * 16))
    with pytest.raises(LeaseLost):
        await WRITES[verb](forged, begun)


@pytest.mark.parametrize("verb", WRITES)
async def test_nobody_else_writes_while_a_task_runs(begun: Running, verb: str) -> None:
    """A saver without a lease gets Conflict (thread_busy), and may write once the task ended."""
    bystander = ValkeySaver(begun.client)
    before = await dump(begun.client, begun.spec.thread_id)
    with pytest.raises(Conflict, match=begun.spec.thread_id) as refused:
        await WRITES[verb](bystander, begun)
    assert refused.value.reason == "thread_busy"
    assert await dump(begun.client, begun.spec.thread_id) == before
    await begun.store.succeed(begun.lease, b"{}")
    await WRITES[verb](bystander, begun)


async def test_every_write_of_the_holder_is_accepted(begun: Running) -> None:
    """The same verbs, with the lease that is the thread's."""
    for write in WRITES.values():
        await write(begun.saver, begun)


async def test_a_fenced_checkpoint_moves_the_head_and_the_task(running: Running) -> None:
    """The record says which checkpoint, by which task, after which event; the task says its step."""
    config = await running.saver.aput(running.config(), checkpoint_of({"a": 1}), {"step": 4}, {"a": 1})
    checkpoint_id = config["configurable"]["checkpoint_id"]
    thread = await running.store.thread(ref_of(running.spec).thread)
    assert thread.checkpoint_id == checkpoint_id
    record = await running.client.call("HGETALL", keys.thread(ref_of(running.spec).thread))
    assert (record[b"head_task"], record[b"head_seq"]) == (running.spec.task_id.encode(), record[b"seq"])
    task = await running.store.get(ref_of(running.spec))
    assert (task.step, task.checkpoint_id) == (4, checkpoint_id)

    await running.saver.aput(running.config(None, "sub:1"), checkpoint_of({}), {"step": 9}, {})
    assert (await running.store.thread(ref_of(running.spec).thread)).checkpoint_id == checkpoint_id


async def test_a_saver_alone_makes_a_record_that_the_store_can_read(running: Running) -> None:
    """A thread of which no task knows is listed with its head."""
    thread_id = make_spec().thread_id
    config = await ValkeySaver(running.client).aput(config_of(thread_id), checkpoint_of({}), {"step": 0}, {})
    thread = await running.store.thread(ref_of(make_spec(thread_id=thread_id)).thread)
    assert thread.checkpoint_id == config["configurable"]["checkpoint_id"]
    assert thread.created_ms <= thread.updated_ms
    assert len(thread.epoch) == 4


async def test_a_checkpoint_of_a_host_whose_clock_is_behind_is_still_the_newest(running: Running) -> None:
    """Ids carry the clock of their host; what was put last is what a resume loads, in subgraphs too."""
    late, early = sorted((str(uuid6()), str(uuid6())), reverse=True)
    for namespace in ("", "sub:1"):
        await running.saver.aput(running.config(None, namespace), checkpoint_of({}, 1, late), {"step": 1}, {})
        await running.saver.aput(running.config(late, namespace), checkpoint_of({}, 1, early), {"step": 2}, {})
        newest = await running.saver.aget_tuple(running.config(None, namespace))
        assert newest is not None
        assert newest.checkpoint["id"] == early


async def test_a_rolled_back_task_leaves_no_checkpoint(running: Running) -> None:
    """After multitask=rollback a read gives the checkpoint before the task; the next put collects the rest."""
    base = await running.saver.aput(running.config(), checkpoint_of({"a": "base"}), {"step": 0}, {"a": 1})
    base_id = base["configurable"]["checkpoint_id"]
    await running.store.succeed(running.lease, b"{}")
    ref = ref_of(running.spec).thread

    async def begin(**fields: object) -> tuple[ValkeySaver, TaskId]:
        spec = make_spec(thread_id=ref.thread_id, **fields)
        await running.store.create(spec)
        claim = await running.store.claim(ref_of(spec), WorkerId("w"), 60_000)
        assert claim is not None
        return ValkeySaver(running.client, lease=claim.lease), spec.task_id

    first, _ = await begin()
    gone = await first.aput(running.config(base_id), checkpoint_of({"a": "gone"}, 2), {"step": 1}, {"a": 2})
    await first.aput_writes(gone, [("a", 1)], "t")
    await first.aput(running.config(None, "sub:1"), checkpoint_of({}), {"step": 0}, {})
    second, _ = await begin(multitask=Multitask.ROLLBACK)
    with pytest.raises(LeaseLost):
        await first.aput_writes(gone, [("b", 1)], "t")
    newest = await second.aget_tuple(running.config())
    assert newest is not None
    assert newest.checkpoint["id"] == base_id
    kept = await second.aput(running.config(base_id), checkpoint_of({"a": "kept"}, 3), {"step": 1}, {"a": 3})
    assert [t.checkpoint["id"] async for t in second.alist({"configurable": {"thread_id": ref.thread_id}})] == [
        kept["configurable"]["checkpoint_id"],
        base_id,
    ]
    stored = await running.client.call("HKEYS", f"{keys.thread(ref)}:blobs")
    assert sorted(stored) == [b"|a|#1", b"|a|#3"]
    assert (
        await running.client.call("EXISTS", f"{keys.thread(ref)}:writes:|{gone['configurable']['checkpoint_id']}") == 0
    )


async def test_a_lease_does_not_reach_other_threads(running: Running) -> None:
    """A node may run a graph on a thread of its own; there the saver writes as anybody does."""
    other = config_of(str(uuid.uuid4()))
    await running.saver.aput(other, checkpoint_of({"a": 1}), {"step": 0}, {"a": 1})
    assert await ValkeySaver(running.client).aget_tuple(other)
