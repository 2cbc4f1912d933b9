"""The start-up check, against real servers that are configured well, badly, and under restrictions."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import pytest

from perdure.assembly import require_suitable
from perdure.clock import SystemClock
from perdure.errors import StoreUnsuitable
from perdure.store.base import Finding
from perdure.store.suitability import durability_of, findings
from perdure.store.valkey import ValkeyStore
from perdure.valkey.connection import Client
from perdure.valkey.embedded import EmbeddedValkey

pytestmark = pytest.mark.anyio


@pytest.fixture
async def client(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Client]:
    """A server of the test's own, to be configured badly."""
    async with EmbeddedValkey(tmp_path_factory.mktemp("v")) as server, Client(server.url) as client:
        yield client


def named(found: Sequence[Finding], name: str) -> Finding:
    [finding] = [finding for finding in found if finding.name == name]
    return finding


async def test_the_embedded_server_passes_every_check(client: Client) -> None:
    found = await findings(client)
    assert {finding.name for finding in found} == {
        *("version", "persistence", "eviction", "role", "disk", "functions", "channels")
    }
    assert all(finding.ok and not finding.fatal for finding in found)
    assert await durability_of(client) == "fsync"
    await require_suitable(await ValkeyStore.open(client, SystemClock()), unsafe=False)


async def test_a_server_without_persistence_is_fatal_and_says_what_to_set(client: Client) -> None:
    await client.call("CONFIG", "SET", "appendonly", "no")
    finding = named(await findings(client), "persistence")
    assert (finding.ok, finding.fatal) == (False, True)
    assert "lost" in finding.detail
    assert "appendonly yes" in finding.mend
    assert await durability_of(client) == "memory"
    store = await ValkeyStore.open(client, SystemClock())
    with pytest.raises(StoreUnsuitable, match=r"(?s)persistence: .*mend: CONFIG SET appendonly yes.*--unsafe-store"):
        await require_suitable(store, unsafe=False)
    await require_suitable(store, unsafe=True)
    assert store.stored == "memory"


async def test_fsync_once_a_second_is_allowed_and_told(client: Client) -> None:
    await client.call("CONFIG", "SET", "appendfsync", "everysec")
    finding = named(await findings(client), "persistence")
    assert (finding.ok, finding.fatal) == (True, False)
    assert "up to a second" in finding.detail
    assert await durability_of(client) == "everysec"


async def test_no_fsync_at_all_is_not_called_anything_better_than_memory(client: Client) -> None:
    await client.call("CONFIG", "SET", "appendfsync", "no")
    finding = named(await findings(client), "persistence")
    assert await durability_of(client) == "memory"
    assert finding.mend
    assert "a second" not in finding.detail, "the system writes when it likes, which may be later than that"


async def test_eviction_is_fatal_where_memory_is_bounded(client: Client) -> None:
    await client.call("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    assert not named(await findings(client), "eviction").ok
    await client.call("CONFIG", "SET", "maxmemory", "100mb")
    finding = named(await findings(client), "eviction")
    assert (finding.ok, finding.fatal) == (False, True)
    assert "allkeys-lru" in finding.detail
    assert "noeviction" in finding.mend


async def test_a_replica_is_fatal(client: Client) -> None:
    await client.call("REPLICAOF", "127.0.0.1", "1")
    finding = named(await findings(client), "role")
    assert (finding.ok, finding.fatal, finding.mend) == (False, True, "connect to the primary")


@pytest.mark.parametrize("forbidden", ["config", "function"])
async def test_a_user_with_fewer_rights_is_judged_by_what_can_be_seen(client: Client, forbidden: str) -> None:
    await client.call("ACL", "SETUSER", "limited", "on", ">pw", "~*", "&*", "+@all", f"-{forbidden}")
    address = client.address
    limited = Client(address.__class__(path=address.path, username="limited", password="pw"))
    async with limited:
        found = await findings(limited)
    if forbidden == "config":
        persistence = named(found, "persistence")
        assert (persistence.ok, persistence.fatal) == (True, False)
        assert "CONFIG is not allowed" in persistence.detail
    else:
        functions = named(found, "functions")
        assert (functions.ok, functions.fatal) == (False, True)
        assert "FUNCTION" in functions.mend
