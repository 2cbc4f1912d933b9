"""The long-term store: items under namespaces, kept in one hash each, found by prefix, filter and meaning."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.resources import files
from itertools import groupby
from types import TracebackType
from typing import Any, Final, NamedTuple, Self, cast

from langgraph.store.base import (
    BaseStore,
    GetOp,
    IndexConfig,
    InvalidNamespaceError,
    Item,
    ListNamespacesOp,
    Op,
    PutOp,
    Result,
    SearchItem,
    SearchOp,
    TTLConfig,
    ensure_embeddings,
    get_text_at_path,
    tokenize_path,
)

from perdure.checkpoint.background import Background
from perdure.checkpoint.long_term.matching import cosines, is_meant, pack_vector, passes
from perdure.errors import ConfigurationError, InvalidRequest
from perdure.lifecycle.ids import DEFAULT_TENANT, Tenant
from perdure.valkey.connection import Arg, Client, Reply
from perdure.valkey.functions import FunctionLibrary

LIBRARY: Final = FunctionLibrary.of("perdure_long_term", files("perdure.checkpoint.long_term") / "lua")
ROOTS: Final = "stores"
"""Sorted set: `<tenant>/<root>` of every root that ever had an item; a superset."""
PAGE: Final = 256
_ESCAPES: Final = str.maketrans(
    {character: f"%{ord(character):02X}" for character in "%/|{}\x7f"}
    | {chr(code): f"%{code:02X}" for code in range(32)}
)


class Found(NamedTuple):
    """One item that a search met: where it is, and what of it was asked for."""

    root: str
    name: str
    value: Mapping[str, Any]
    vectors: Sequence[bytes]


class ValkeyStore(BaseStore):
    """LangGraph's long-term memory on Valkey >= 7.2 or Redis >= 7.0, without modules, sync and async.

        async with ValkeyStore.from_url("valkey://127.0.0.1:6379") as store:
            graph = builder.compile(store=store)

    Values are JSON objects. Searches come in the order of namespace and key; with an `index` and a query, by
    likeness. There is no vector index: a query reads all vectors under its prefix and compares them here, which is
    fit for some ten thousand items under a prefix, not for millions. Items with a time to live vanish by themselves.
    In a batch all reads see the state before its writes.

    Async methods belong to the event loop in which `client` is used; sync ones have a thread and a client of their own.
    """

    supports_ttl = True

    def __init__(
        self,
        client: Client,
        *,
        index: IndexConfig | None = None,
        ttl: TTLConfig | None = None,
        tenant: Tenant = DEFAULT_TENANT,
    ) -> None:
        self.ttl_config = ttl
        self._client = client
        self._owns_client = False
        self._tenant = tenant
        self._index = index
        self._embeddings = ensure_embeddings(index["embed"]) if index else None
        self._paths = [(path, tokenize_path(path)) for path in (index.get("fields") or ["$"])] if index else []
        self._background = Background(lambda: Client(client.address))

    @classmethod
    def from_url(
        cls,
        url: str,
        *,
        index: IndexConfig | None = None,
        ttl: TTLConfig | None = None,
        tenant: Tenant = DEFAULT_TENANT,
    ) -> Self:
        """A store with a client of its own, closed when the `async with` or `with` block ends."""
        store = cls(Client(url), index=index, ttl=ttl, tenant=tenant)
        store._owns_client = True
        return store

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
        """Release the connections that this store made. Safe to repeat."""
        await self._background.aclose()
        if self._owns_client:
            await self._client.aclose()

    def close(self) -> None:
        """Release what the sync methods use. Safe to repeat."""
        self._background.close()

    def batch(self, ops: Iterable[Op]) -> list[Result]:
        """Carry out several operations; all reads see the state before the writes. The last write to an item wins."""
        listed = list(ops)
        return self._background.run(lambda client: self._batch(client, listed))

    async def abatch(self, ops: Iterable[Op]) -> list[Result]:
        """See `batch`."""
        return await self._batch(self._client, list(ops))

    # --- what both sides do -----------------------------------------------------------------------------------
    async def _batch(self, client: Client, ops: Sequence[Op]) -> list[Result]:
        results = await asyncio.gather(*(self._read(client, op) for op in ops))
        last = {(op.namespace, op.key): op for op in ops if isinstance(op, PutOp)}
        if last:
            await self._put(client, list(last.values()))
        return list(results)

    async def _read(self, client: Client, op: Op) -> Result:
        if isinstance(op, GetOp):
            root, name = _root(op.namespace), _name(op.namespace, op.key)
            return (await self._items(client, root, [name], op.refresh_ttl))[0]
        if isinstance(op, SearchOp):
            return await self._search(client, op)
        if isinstance(op, ListNamespacesOp):
            return await self._list_namespaces(client, op)
        if isinstance(op, PutOp):
            return None
        raise TypeError(f"{type(op).__name__} is no operation of a store")

    async def _put(self, client: Client, ops: Sequence[PutOp]) -> None:
        calls: list[tuple[str, list[Arg]]] = []
        for op in ops:
            value = _encode(op) if op.value is not None else ""
            ttl_ms = max(round(op.ttl * 60_000), 1) if op.ttl is not None else ""
            calls.append((_root(op.namespace), [_name(op.namespace, op.key), value, ttl_ms]))
        vectors = await self._embed(ops)
        for _, args in calls:
            args += vectors.get(str(args[0]), ())
        # The index of roots is a superset, so it is written before what it leads to.
        roots = dict.fromkeys(root for root, args in calls if args[1])
        if roots:
            members = (part for root in roots for part in (0, f"{self._tenant}/{root}"))
            await client.call("ZADD", ROOTS, *members)
        await asyncio.gather(*(self._call(client, "put", root, *args) for root, args in calls))

    async def _embed(self, ops: Sequence[PutOp]) -> Mapping[str, Sequence[Arg]]:
        """The vectors of each item, as path, bytes, path, bytes …"""
        if self._embeddings is None:
            return {}
        wanted: dict[str, list[tuple[str, str]]] = defaultdict(list)
        for op in ops:
            if op.value is None or op.index is False:
                continue
            paths = self._paths if op.index is None else [(path, tokenize_path(path)) for path in op.index]
            for path, tokens in paths:
                texts = get_text_at_path(op.value, tokens if path != "$" else path)
                for number, text in enumerate(texts):
                    place = path if len(texts) == 1 else f"{path}.{number}"
                    wanted[text].append((_name(op.namespace, op.key), place))
        found: dict[str, list[Arg]] = defaultdict(list)
        if wanted:
            for vector, places in zip(
                await self._embeddings.aembed_documents(list(wanted)), wanted.values(), strict=True
            ):
                packed = pack_vector(self._checked(vector))
                for name, path in places:
                    found[name] += (path, packed)
        return found

    def _checked(self, vector: Sequence[float]) -> Sequence[float]:
        dims = self._index.get("dims") if self._index else None
        if dims is not None and len(vector) != dims:
            raise ConfigurationError(
                f"the embedding made a vector of {len(vector)} numbers, index.dims says {dims}: correct one of them"
            )
        return vector

    async def _items(self, client: Client, root: str, names: Sequence[str], refresh: bool) -> list[Item | None]:
        found = await self._call(client, "read", root, int(refresh), *names)
        return [_item(name, reply) if reply else None for name, reply in zip(names, found, strict=True)]

    async def _search(self, client: Client, op: SearchOp) -> list[SearchItem]:
        by_meaning = bool(op.query) and self._embeddings is not None
        chosen: list[tuple[Found, float | None]] = []
        end = op.offset + op.limit
        async for found in self._scan(client, op.namespace_prefix, bool(op.filter), by_meaning):
            if passes(found.value, op.filter):
                chosen.append((found, None))
                if not by_meaning and len(chosen) >= end:
                    break
        if by_meaning:
            chosen = await self._ranked(op, [found for found, _ in chosen])
        else:
            chosen = chosen[op.offset : end]
        results: list[SearchItem] = []
        # Items of several roots are read root by root; likeness decides over all of them.
        for root, group in groupby(chosen, key=lambda pair: pair[0].root):
            members = list(group)
            items = await self._items(client, root, [found.name for found, _ in members], op.refresh_ttl)
            results += [_search_item(item, score) for item, (_, score) in zip(items, members, strict=True) if item]
        return results

    async def _ranked(self, op: SearchOp, found: Sequence[Found]) -> list[tuple[Found, float | None]]:
        """By the best of each item's vectors; items without any fill up what is left of the limit."""
        assert self._embeddings is not None
        assert op.query is not None
        query = self._checked(await self._embeddings.aembed_query(op.query))
        owners = [item for item in found for _ in item.vectors]
        scores = cosines(query, [vector for item in found for vector in item.vectors])
        best: dict[tuple[str, str], tuple[Found, float | None]] = {}
        for position in sorted(range(len(scores)), key=lambda position: -scores[position]):
            owner = owners[position]
            best.setdefault((owner.root, owner.name), (owner, scores[position]))
        ranked = list(best.values())[op.offset : op.offset + op.limit]
        unranked: list[tuple[Found, float | None]] = [(item, None) for item in found if not item.vectors]
        return ranked + unranked[: op.limit - len(ranked)]

    async def _scan(self, client: Client, prefix: Sequence[str], values: bool, vectors: bool) -> AsyncIterator[Found]:
        roots = [_root(prefix)] if prefix else await self._roots(client)
        path = _path(prefix)
        for root in roots:
            # '0' follows '/', so this spans all names that begin with the prefix.
            after, to = (f"[{path}", f"({path[:-1]}0") if path else ("-", "+")
            while after:
                following, *page = await self._call(client, "scan", root, after, to, PAGE, int(values), int(vectors))
                for name, value, flat in page:
                    yield Found(root, name.decode(), json.loads(value) if value else {}, flat[1::2])
                after = f"({following.decode()}" if following else ""

    async def _list_namespaces(self, client: Client, op: ListNamespacesOp) -> list[tuple[str, ...]]:
        conditions = op.match_conditions or ()
        # A prefix without wildcard in its first label names the one root that needs to be asked.
        fixed = {c.path[0] for c in conditions if c.match_type == "prefix" and c.path and c.path[0] != "*"}
        roots = [_root((label,)) for label in fixed] if fixed else await self._roots(client)
        texts = await asyncio.gather(*(self._call(client, "namespaces", root) for root in roots))
        namespaces = {_labels(text.decode()) for found in texts for text in found}
        namespaces = {ns for ns in namespaces if all(is_meant(ns, condition) for condition in conditions)}
        if op.max_depth is not None:
            namespaces = {ns[: op.max_depth] for ns in namespaces}
        return sorted(namespaces)[op.offset : op.offset + op.limit]

    async def _roots(self, client: Client) -> list[str]:
        members = await client.call("ZRANGE", ROOTS, f"[{self._tenant}/", f"({self._tenant}0", "BYLEX")
        return [member.decode().partition("/")[2] for member in members]

    async def _call(self, client: Client, verb: str, root: str, *args: Arg) -> Reply:
        tag = root if self._tenant == DEFAULT_TENANT else f"{self._tenant}/{root}"
        return await client.fcall(LIBRARY, verb, [f"store:{{{tag}}}:index"], *args)


def _root(namespace: Sequence[str]) -> str:
    if not namespace or not namespace[0]:
        raise InvalidNamespaceError("a namespace needs at least one label, and labels are not empty")
    return namespace[0].translate(_ESCAPES)


def _path(namespace: Sequence[str]) -> str:
    return "".join(f"{label.translate(_ESCAPES)}/" for label in namespace)


def _name(namespace: Sequence[str], key: str) -> str:
    return f"{_path(namespace)}|{key.translate(_ESCAPES)}"


def _unescaped(text: str) -> str:
    if "%" not in text:
        return text
    head, *parts = text.split("%")
    return head + "".join(chr(int(part[:2], 16)) + part[2:] for part in parts)


def _labels(path: str) -> tuple[str, ...]:
    return tuple(_unescaped(label) for label in path.split("/")[:-1])


def _encode(op: PutOp) -> str:
    try:
        return json.dumps(dict(op.value or {}), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError) as error:
        raise InvalidRequest(
            (f"/{'/'.join(op.namespace)}/{op.key}", f"the value of an item must be a JSON object: {error}")
        ) from error


def _item(name: str, reply: Sequence[bytes]) -> Item:
    path, _, key = name.partition("|")
    value, created, updated = reply
    return Item(
        namespace=_labels(path),
        key=_unescaped(key),
        value=cast(dict[str, Any], json.loads(value)),
        created_at=datetime.fromtimestamp(int(created) / 1000, UTC),
        updated_at=datetime.fromtimestamp(int(updated) / 1000, UTC),
    )


def _search_item(item: Item, score: float | None) -> SearchItem:
    return SearchItem(item.namespace, item.key, item.value, item.created_at, item.updated_at, score)
