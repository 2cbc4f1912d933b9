"""The embedded broker: one stream with one consumer group for each class of a tier.

A ring that a dead consumer took and never acked is taken over after `redeliver_after_s`. Consumers wait in a blocking
read on a connection of their own; nothing polls.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Final

from perdure.broker.base import Broker, Consumer, Delivery
from perdure.errors import BrokerUnavailable, StoreUnavailable
from perdure.lifecycle.doorbell import Doorbell
from perdure.lifecycle.task import Priority
from perdure.valkey import keys
from perdure.valkey.connection import Arg, Client, Connection, Reply, ValkeyReplyError

log = logging.getLogger(__name__)

GROUP: Final = "perdure"
REDELIVER_AFTER_S: Final = 5.0
SILENCE_S: Final = 10.0
BLOCK_MS: Final = 5_000
"""How long one blocking read lasts. Between two of them rings of dead consumers are taken over."""


class ValkeyBroker(Broker):
    """Doorbells in the streams `ready:{TIER}:CLASS`. `beside_store`: the store uses this very client."""

    def __init__(
        self, client: Client, *, beside_store: bool = False, redeliver_after_s: float = REDELIVER_AFTER_S
    ) -> None:
        self._client = client
        self.in_order_with_store = beside_store
        self._redeliver_after_ms = int(redeliver_after_s * 1000)

    async def publish(self, doorbells: Sequence[Doorbell]) -> None:
        if not doorbells:
            return
        commands = [("XADD", keys.ready(bell.tier, bell.priority), "*", "bell", bell.encode()) for bell in doorbells]
        try:
            await self._client.calls(commands)
        except StoreUnavailable as error:
            raise BrokerUnavailable(str(error)) from error

    @contextlib.asynccontextmanager
    async def consume(
        self, tier: str, consumer: str, classes: Sequence[Priority] = tuple(Priority)
    ) -> AsyncIterator[Consumer]:
        streams = [keys.ready(tier, priority) for priority in Priority if priority in classes]
        ear = _Consumer(self._client, streams, consumer, self._redeliver_after_ms)
        try:
            yield ear
        finally:
            await ear.leave()

    async def depth(self, tier: str) -> int:
        lengths = await self._client.calls([("XLEN", keys.ready(tier, priority)) for priority in Priority])
        return sum(lengths)

    async def aclose(self) -> None:
        return None


class _Consumer(Consumer):
    def __init__(self, client: Client, streams: Sequence[str], name: str, redeliver_after_ms: int) -> None:
        self._client = client
        self._streams = streams
        self._name = name
        self._redeliver_after_ms = redeliver_after_ms
        self._connection: Connection | None = None
        self._unread: list[_Delivery] = []
        self._held: dict[tuple[str, bytes], _Delivery] = {}
        self._swept_at = -1e9

    async def receive(self, free: int) -> Sequence[Delivery]:
        try:
            return await self._receive(free)
        except StoreUnavailable as error:
            raise BrokerUnavailable(str(error)) from error

    async def _receive(self, free: int) -> Sequence[Delivery]:
        loop = asyncio.get_running_loop()
        while True:
            if self._unread:
                taken, self._unread = self._unread[:free], self._unread[free:]
                await self._give_back(self._unread)
                return taken
            connection = await self._connected()
            if loop.time() - self._swept_at > self._redeliver_after_ms / 1000:
                self._swept_at = loop.time()
                self._unread = await self._take_over(connection, free)
                continue
            self._unread = await self._read(connection, free, block=False)
            if not self._unread:
                self._unread = await self._read(connection, 1, block=True)

    async def _read(self, connection: Connection, count: int, *, block: bool) -> list[_Delivery]:
        """New rings, the most urgent class first."""
        waiting: list[Arg] = ["BLOCK", min(BLOCK_MS, self._redeliver_after_ms)] if block else []
        command: list[Arg] = ["XREADGROUP", "GROUP", GROUP, self._name, "COUNT", count, *waiting, "STREAMS"]
        command += [*self._streams, *(">" for _ in self._streams)]
        future = connection.call(*command)
        try:
            # The server answers a blocked read in time; one that stays silent is gone, whatever the socket says.
            async with asyncio.timeout(BLOCK_MS / 1000 + SILENCE_S if block else SILENCE_S):
                reply = await asyncio.shield(future)
        except TimeoutError as error:
            connection.close()
            raise StoreUnavailable("the broker does not answer a waiting consumer") from error
        except asyncio.CancelledError:
            # The server would go on handing rings to a read that nobody waits for. What it has handed out already
            # stays pending under our name, and is given back on leaving or taken over later.
            future.cancel()
            connection.close()
            self._connection = None
            raise
        except ValkeyReplyError as error:
            if error.code != "NOGROUP":
                raise
            await self._make_groups(connection)
            return []
        return await self._deliveries(
            (stream.decode(), entry_id, fields)
            for stream, entries in _by_stream(reply, self._streams)
            for entry_id, fields in entries
        )

    async def _take_over(self, connection: Connection, free: int) -> list[_Delivery]:
        """Rings that a consumer took and did not ack for a while: it died between the ring and the claim."""
        taken: list[_Delivery] = []
        for stream in self._streams:
            try:
                reply = await connection.call(
                    "XAUTOCLAIM", stream, GROUP, self._name, self._redeliver_after_ms, "0", "COUNT", free
                )
            except ValkeyReplyError as error:
                if error.code != "NOGROUP":
                    raise
                await self._make_groups(connection)
                continue
            taken += await self._deliveries(
                (stream, entry_id, fields)
                for entry_id, fields in reply[1]
                if (stream, entry_id) not in self._held and fields is not None
            )
        return taken

    async def _make_groups(self, connection: Connection) -> None:
        for stream in self._streams:
            with contextlib.suppress(ValkeyReplyError):  # BUSYGROUP: another consumer was first.
                await connection.call("XGROUP", "CREATE", stream, GROUP, "0", "MKSTREAM")

    async def _connected(self) -> Connection:
        if self._connection is None or self._connection.closed.done():
            self._connection = await self._client.dedicated()
        return self._connection

    async def _deliveries(self, entries: Iterable[tuple[str, bytes, Sequence[bytes]]]) -> list[_Delivery]:
        """What can be read of these entries. One that is no doorbell is told and dropped: nobody could ever take it."""
        readable = []
        for stream, entry_id, fields in entries:
            try:
                delivery = _Delivery(self, stream, entry_id, Doorbell.decode(fields[1].decode()))
            except (ValueError, IndexError):
                log.error("dropped an entry of %s that is no doorbell: %r", stream, fields)
                await self._client.calls([("XACK", stream, GROUP, entry_id), ("XDEL", stream, entry_id)])
                continue
            self._held[stream, entry_id] = delivery
            readable.append(delivery)
        return readable

    async def _give_back(self, deliveries: Sequence[_Delivery]) -> None:
        for delivery in list(deliveries):
            await delivery.release()
        self._unread = []

    async def acked(self, delivery: _Delivery, *, ring_again: bool) -> None:
        if self._held.pop((delivery.stream, delivery.entry_id), None) is None:
            return
        commands: list[Sequence[Arg]] = []
        if ring_again:
            commands.append(("XADD", delivery.stream, "*", "bell", delivery.doorbell.encode()))
        commands.append(("XACK", delivery.stream, GROUP, delivery.entry_id))
        commands.append(("XDEL", delivery.stream, delivery.entry_id))
        try:
            await self._client.calls(commands)
        except StoreUnavailable as error:
            raise BrokerUnavailable(str(error)) from error

    async def leave(self) -> None:
        """Give back what was not acked and forget this consumer. Without the broker it is taken over later."""
        if self._connection is not None:
            self._connection.close()
        try:
            for stream in self._streams:
                pending = await self._client.call("XREADGROUP", "GROUP", GROUP, self._name, "STREAMS", stream, "0")
                for _, entries in _by_stream(pending, [stream]):
                    for delivery in await self._deliveries((stream, *entry) for entry in entries if entry[1]):
                        await delivery.release()
                await self._client.call("EVAL", _FORGET, 1, stream, GROUP, self._name)
        except (StoreUnavailable, BrokerUnavailable, ValkeyReplyError):
            return


_FORGET: Final = """
if #redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', 1, ARGV[2]) == 0 then
  return redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[2])
end
return 0
"""
"""Deleting a consumer deletes what is pending under its name, so it must be seen to be nothing in the same step."""


class _Delivery(Delivery):
    def __init__(self, consumer: _Consumer, stream: str, entry_id: bytes, doorbell: Doorbell) -> None:
        self._consumer = consumer
        self.stream = stream
        self.entry_id = entry_id
        self.doorbell = doorbell

    async def ack(self) -> None:
        await self._consumer.acked(self, ring_again=False)

    async def release(self) -> None:
        await self._consumer.acked(self, ring_again=True)


def _by_stream(reply: Reply, order: Sequence[str]) -> list[tuple[bytes, Sequence[tuple[bytes, Sequence[bytes]]]]]:
    """The answer of XREADGROUP (a map, in RESP3) with the most urgent stream first."""
    found = dict(reply or {})
    return [(name.encode(), found[name.encode()]) for name in order if name.encode() in found]
