"""The long-term store gives what LangGraph's in-memory store gives, and keeps it."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, TypedDict

import pytest
from langgraph.graph import START, StateGraph
from langgraph.runtime import Runtime
from langgraph.store.base import (
    BaseStore,
    GetOp,
    InvalidNamespaceError,
    ListNamespacesOp,
    MatchCondition,
    PutOp,
    SearchOp,
)
from langgraph.store.memory import InMemoryStore

from perdure.checkpoint.long_term import ValkeyStore, matching
from perdure.errors import ConfigurationError, InvalidRequest
from perdure.lifecycle.ids import Tenant
from perdure.valkey.connection import Client
from perdure.valkey.embedded import EmbeddedValkey

pytestmark = pytest.mark.anyio
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def embed(texts: Sequence[str]) -> list[list[float]]:
    """How often each letter occurs: enough for likeness to mean something."""
    return [[float(text.lower().count(letter)) for letter in LETTERS] for text in texts]


@pytest.fixture
async def store(valkey: EmbeddedValkey) -> AsyncIterator[ValkeyStore]:
    tenant = Tenant(uuid.uuid4().hex)
    async with ValkeyStore.from_url(
        valkey.url, tenant=tenant, index={"dims": 26, "embed": embed, "fields": ["text"]}
    ) as made:
        yield made


@pytest.fixture
def reference() -> InMemoryStore:
    return InMemoryStore(index={"dims": 26, "embed": embed, "fields": ["text"]})


def seen(item: Any) -> tuple[object, ...] | None:
    """What of an item does not depend on the clock."""
    if item is None:
        return None
    score = getattr(item, "score", None)
    return (item.namespace, item.key, item.value, None if score is None else round(score, 4))


FILTERS: list[dict[str, Any] | None] = [
    None,
    {"n": 3},
    {"n": {"$gt": 2}},
    {"n": {"$gte": 2, "$lt": 5}},
    {"n": {"$ne": 1}},
    {"n": {"$eq": 4}},
    {"deep": {"a": 1}},
    {"deep": {"a": {"$lte": 1}}},
    {"tags": ["x", "y"]},
    {"missing": None},
]
NAMESPACES = [("u",), ("u", "a"), ("u", "a", "x"), ("u", "ab"), ("v",), ("v", "a"), ("ü/%|{}", "~"), ("u", "~z")]


@pytest.mark.parametrize("seed", range(5))
async def test_any_sequence_of_operations_gives_what_the_in_memory_store_gives(
    store: ValkeyStore, reference: InMemoryStore, seed: int
) -> None:
    """Random puts, deletes, reads, filtered searches and namespace listings, in batches."""
    chance = random.Random(seed)
    for _ in range(60):
        ops: list[Any] = []
        for _ in range(chance.randint(1, 5)):
            namespace, key = chance.choice(NAMESPACES), chance.choice(["k1", "k2", "k|/%3", ""])
            n = chance.randint(0, 6)
            value = {
                "n": n,
                "text": chance.choice(["apple pie", "banana split", "zebra crossing"]) + f" {LETTERS[n] * n}",
                "deep": {"a": n % 2, "b": [n]},
                "tags": ["x", "y"][: n % 3],
            }
            ops.append(
                chance.choice(
                    [
                        PutOp(namespace, key, value, index=False),
                        PutOp(namespace, key, value, index=False),
                        PutOp(namespace, key, None),
                        GetOp(namespace, key),
                        SearchOp(namespace[: chance.randint(1, 2)], chance.choice(FILTERS), limit=1000),
                        SearchOp((), chance.choice(FILTERS), limit=1000),
                    ]
                )
            )
        ours, theirs = await store.abatch(ops), await reference.abatch(ops)
        for op, one, other in zip(ops, ours, theirs, strict=True):
            if isinstance(op, SearchOp):
                assert isinstance(one, list)
                assert isinstance(other, list)
                # In memory they come in the order of insertion, here in that of their names.
                assert sorted(map(repr, map(seen, one))) == sorted(map(repr, map(seen, other))), op
                now = await store.asearch(op.namespace_prefix, filter=op.filter, limit=1000)
                page = await store.asearch(op.namespace_prefix, filter=op.filter, limit=2, offset=1)
                assert [seen(item) for item in page] == [seen(item) for item in now[1:3]]
            else:
                assert seen(one) == seen(other), op
    filled = {namespace for namespace, items in reference._data.items() if items}
    for condition in (
        (),
        (MatchCondition("prefix", ("u",)),),
        (MatchCondition("prefix", ("*", "a")),),
        (MatchCondition("suffix", ("a",)),),
        (MatchCondition("prefix", ("u",)), MatchCondition("suffix", ("*", "x"))),
    ):
        for depth in (None, 1, 2):
            # The in-memory store also lists namespaces whose items are gone.
            full = InMemoryStore()
            await full.abatch([PutOp(namespace, "k", {}) for namespace in filled])
            op = ListNamespacesOp(condition, depth, 1000, 0)
            assert await store.abatch([op]) == await full.abatch([op])


async def test_a_query_ranks_by_likeness_as_the_in_memory_store_does(
    store: ValkeyStore, reference: InMemoryStore
) -> None:
    """Scores, order, filters, several vectors an item, items without a vector, offset and limit."""
    fruits = ["apple", "banana", "cherry", "damson", "elderberry", "fig", "grape"]
    ops = [PutOp(("food", str(n % 2)), name, {"text": name, "n": n}) for n, name in enumerate(fruits)]
    ops.append(PutOp(("food", "0"), "plain", {"text": "apple", "n": 9}, index=False))
    ops.append(PutOp(("food", "1"), "list", {"text": "x", "parts": ["kiwi", "lime"]}, index=["parts[*]", "text"]))
    await store.abatch(ops)
    await reference.abatch(ops)
    for query in ("apple", "berry", "kiwi", "lime"):
        for filter in (None, {"n": {"$gt": 1}}):
            if filter:
                await store.adelete(("food", "1"), "list")
                await reference.adelete(("food", "1"), "list")
            for offset, limit in ((0, 3), (2, 3), (0, 50)):
                ours = await store.asearch(("food",), query=query, filter=filter, limit=limit, offset=offset)
                theirs = await reference.asearch(("food",), query=query, filter=filter, limit=limit, offset=offset)
                assert [seen(item) for item in ours] == [seen(item) for item in theirs]


def test_likeness_is_the_same_with_and_without_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The plain form agrees with the definition of the cosine, null vectors included."""
    monkeypatch.setattr(matching, "_HAS_NUMPY", False)
    vectors = [matching.pack_vector(v) for v in ([1.0, 0.0], [1.0, 1.0], [0.0, 0.0], [-2.0, 0.0])]
    assert matching.cosines([2.0, 0.0], vectors) == pytest.approx([1.0, 2**-0.5, 0.0, -1.0], abs=1e-6)
    assert matching.cosines([0.0, 0.0], vectors) == [0.0] * 4


async def test_an_item_with_a_time_to_live_vanishes_and_reading_keeps_it(
    store: ValkeyStore, valkey: EmbeddedValkey
) -> None:
    """Gone from get, search and namespaces; a read starts its time anew unless told not to."""
    await store.aput(("ttl",), "short", {"text": "x"}, ttl=1 / 60_000)
    await store.aput(("ttl",), "long", {"text": "y"}, ttl=10)
    async with Client(valkey.url) as client, asyncio.timeout(20):
        while await store.aget(("ttl",), "short", refresh_ttl=False):
            await client.call("PING")  # The server's own clock runs; nothing can tell us when the item is gone.
        assert [item.key for item in await store.asearch(("ttl",))] == ["long"]
        await store.aput(("brief",), "k", {}, ttl=1 / 60_000)
        while await store.aget(("brief",), "k", refresh_ttl=False):
            await client.call("PING")
        assert await store.alist_namespaces() == [("ttl",)]

        key = f"store:{{{store._tenant}/ttl}}:item:ttl/|long"
        for read, anew in (
            (lambda: store.aget(("ttl",), "long", refresh_ttl=False), False),
            (lambda: store.aget(("ttl",), "long"), True),
            (lambda: store.asearch(("ttl",), refresh_ttl=False), False),
            (lambda: store.asearch(("ttl",)), True),
        ):
            await client.call("PEXPIRE", key, 60_000)
            await read()
            assert (await client.call("PTTL", key) > 60_000) == anew


async def test_an_update_keeps_the_time_of_creation(store: ValkeyStore) -> None:
    """created_at stays, updated_at does not go back."""
    await store.aput(("t",), "k", {"n": 1})
    first = await store.aget(("t",), "k")
    await store.aput(("t",), "k", {"n": 2})
    second = await store.aget(("t",), "k")
    assert first is not None
    assert second is not None
    assert second.created_at == first.created_at <= second.updated_at
    assert second.value == {"n": 2}


async def test_tenants_do_not_see_each_other(valkey: EmbeddedValkey) -> None:
    """The same namespace and key, in two tenants."""
    async with Client(valkey.url) as client:
        one, other = (ValkeyStore(client, tenant=Tenant(uuid.uuid4().hex)) for _ in range(2))
        await one.aput(("a",), "k", {"n": 1})
        assert await other.aget(("a",), "k") is None
        assert await other.asearch(()) == []
        assert await other.alist_namespaces() == []


@pytest.mark.parametrize(
    "put",
    [
        lambda store: store.aput(("a",), "k", {"n": object()}),
        lambda store: store.aput(("a",), "k", {"n": float("nan")}),
    ],
)
async def test_a_value_that_is_no_json_is_refused_by_name(store: ValkeyStore, put: Callable[[BaseStore], Any]) -> None:
    """Nothing is stored, and the error says which item."""
    with pytest.raises(InvalidRequest, match="/a/k"):
        await put(store)
    assert await store.aget(("a",), "k") is None


async def test_bad_namespaces_and_embeddings_of_the_wrong_size_are_refused(valkey: EmbeddedValkey) -> None:
    """Before anything is written."""
    async with ValkeyStore.from_url(
        valkey.url, tenant=Tenant(uuid.uuid4().hex), index={"dims": 3, "embed": embed}
    ) as store:
        with pytest.raises(InvalidNamespaceError):
            await store.abatch([PutOp((), "k", {})])
        with pytest.raises(ConfigurationError, match="26 numbers"):
            await store.aput(("a",), "k", {"text": "x"})
        assert await store.aget(("a",), "k") is None


def test_the_same_from_synchronous_code(valkey: EmbeddedValkey) -> None:
    """put, get, search, delete and list_namespaces without an event loop."""
    with ValkeyStore.from_url(valkey.url, tenant=Tenant(uuid.uuid4().hex)) as store:
        store.put(("a", "b"), "k", {"n": 1})
        assert seen(store.get(("a", "b"), "k")) == (("a", "b"), "k", {"n": 1}, None)
        assert [item.key for item in store.search(("a",), filter={"n": 1})] == ["k"]
        assert store.list_namespaces() == [("a", "b")]
        store.delete(("a", "b"), "k")
        assert store.search(("a",)) == []


class Remembering(TypedDict):
    count: int


async def test_a_graph_gets_it_as_its_runtime_store(store: ValkeyStore) -> None:
    """What one run of a graph remembers, the next one finds."""

    async def node(state: Remembering, runtime: Runtime[None]) -> dict[str, Any]:
        assert runtime.store is not None
        item = await runtime.store.aget(("memories",), "count")
        count = (item.value["count"] if item else 0) + 1
        await runtime.store.aput(("memories",), "count", {"count": count})
        return {"count": count}

    graph = StateGraph(Remembering).add_node("node", node).add_edge(START, "node").compile(store=store)
    assert [(await graph.ainvoke({"count": 0}))["count"] for _ in range(3)] == [1, 2, 3]
