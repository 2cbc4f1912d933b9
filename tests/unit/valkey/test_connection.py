"""The connection: batches in order, errors translated, a server that dies or falls silent is left and found again."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from perdure.errors import ConfigurationError, StoreUnavailable
from perdure.testing.faults import Proxy, kill
from perdure.valkey import connection as module
from perdure.valkey.connection import Client, Connection, Subscriptions, ValkeyReplyError
from perdure.valkey.embedded import EmbeddedValkey
from perdure.valkey.functions import FunctionLibrary

pytestmark = pytest.mark.anyio

HELLO = b"*0\r\n"


@contextlib.asynccontextmanager
async def scripted(*replies: bytes | None) -> AsyncIterator[str]:
    """A server that answers each command with the next of `replies`; None, and everything after, is silence."""

    serving: list[tuple[asyncio.Task[None] | None, asyncio.StreamWriter]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.append((asyncio.current_task(), writer))
        script = iter(replies)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while header := await reader.readline():
                for _ in range(int(header[1:])):
                    length = int((await reader.readline())[1:])
                    await reader.readexactly(length + 2)
                reply = next(script, None)
                if reply is None:
                    await reader.read()
                    break
                writer.write(reply)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"valkey://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        for task, writer in serving:
            writer.transport.abort()
            if task is not None:
                await asyncio.wait([task])


@pytest.fixture
async def client(valkey: EmbeddedValkey) -> AsyncIterator[Client]:
    async with Client(valkey.url) as client:
        yield client


@pytest.fixture
async def own(tmp_path: Path) -> AsyncIterator[EmbeddedValkey]:
    """A server that the test may kill."""
    async with EmbeddedValkey(tmp_path / "own") as server:
        yield server


async def test_calls_of_one_turn_keep_their_order(client: Client) -> None:
    await client.call("DEL", "order")
    pushes = [client.call("RPUSH", "order", n) for n in range(500)]
    assert await asyncio.gather(*pushes) == list(range(1, 501))
    assert await client.call("LRANGE", "order", 0, -1) == [b"%d" % n for n in range(500)]


async def test_a_batch_keeps_its_order_and_the_first_error_is_raised_after_all_have_answered(client: Client) -> None:
    with pytest.raises(ValkeyReplyError) as refused:
        await client.calls([("SET", "batch", "1"), ("NOSUCHCOMMAND",), ("INCR", "batch"), ("LPUSH", "batch", "x")])
    assert "NOSUCHCOMMAND" in refused.value.text
    assert await client.call("GET", "batch") == b"2"


async def test_a_caller_that_gives_up_disturbs_nobody(client: Client) -> None:
    """Replies still reach those who asked, though some who asked have gone."""
    await client.call("PING")
    calls = [asyncio.create_task(client.call("ECHO", f"{n}")) for n in range(100)]
    await asyncio.sleep(0)  # they are sent
    for call in calls[::3]:
        call.cancel()
    answers = await asyncio.gather(*calls, return_exceptions=True)
    for n, answer in enumerate(answers):
        if n % 3 == 0:
            assert isinstance(answer, asyncio.CancelledError)
        else:
            assert answer == b"%d" % n
    assert await client.call("ECHO", "after") == b"after"


async def test_the_first_caller_may_give_up_while_it_connects(valkey: EmbeddedValkey) -> None:
    async with Client(valkey.url) as client:
        first, second = (asyncio.create_task(client.call("ECHO", name)) for name in ("first", "second"))
        await asyncio.sleep(0)  # both wait for the connection
        first.cancel()
        assert await second == b"second"


async def test_all_may_give_up_while_it_connects_and_the_next_caller_starts_anew() -> None:
    """An attempt that everybody has left and that failed since is not the next caller's failure."""
    async with scripted(b"-LOADING Valkey is loading\r\n") as url:
        client = Client(url)
        alone = asyncio.create_task(client.call("PING"))
        await asyncio.sleep(0)  # it waits for the connection
        alone.cancel()
        await asyncio.wait([alone])
        opening = client._opening
        assert opening is not None
        await asyncio.wait([opening])
    async with scripted(HELLO, b"+PONG\r\n") as url:
        client.address = module.Address.parse(url)
        assert await client.call("PING") == b"PONG"
        await client.aclose()


CODES = [
    "LOADING", "READONLY", "OOM", "MISCONF", "NOREPLICAS", "MASTERDOWN", "CLUSTERDOWN", "BUSY", "TRYAGAIN", "UNBLOCKED"
]  # fmt: skip


@pytest.mark.parametrize("code", CODES)
async def test_an_answer_that_says_not_now_is_a_store_that_is_unavailable(code: str) -> None:
    async with scripted(HELLO, f"-{code} not now\r\n".encode(), b"+OK\r\n") as url, Client(url) as client:
        with pytest.raises(StoreUnavailable, match=code):
            await client.call("SET", "a", "b")
        assert await client.call("SET", "a", "b") == b"OK", "the connection itself is fine"


@pytest.mark.parametrize("code", ["ERR", "WRONGTYPE", "NOSCRIPT", "LEASELOST", "CONFLICT"])
async def test_any_other_error_is_told_as_it_is(code: str) -> None:
    async with scripted(HELLO, f"-{code} of this kind\r\n".encode()) as url, Client(url) as client:
        with pytest.raises(ValkeyReplyError) as refused:
            await client.call("SET", "a", "b")
        assert (refused.value.code, refused.value.detail) == (code, "of this kind")


@pytest.mark.parametrize("code", ["WRONGPASS", "NOAUTH", "NOPERM", "ERR"])
async def test_a_server_that_refuses_us_is_a_fault_of_the_settings(code: str) -> None:
    async with scripted(f"-{code} go away\r\n".encode()) as url:
        address = module.Address.parse(url.replace("valkey://", "valkey://:hunter2@"))
        with pytest.raises(ConfigurationError, match="refuses us") as refused:
            await Connection.open(address)
        assert "hunter2" not in str(refused.value)


async def test_a_wrong_password_is_a_fault_of_the_settings(valkey: EmbeddedValkey) -> None:
    address = module.Address.parse(valkey.url)
    wrong = module.Address(path=address.path, host=address.host, port=address.port, password="hunter2")
    with pytest.raises(ConfigurationError, match="WRONGPASS"):
        await Connection.open(wrong)


async def test_no_server_is_a_store_that_is_unavailable(tmp_path: Path) -> None:
    for url in ("valkey://127.0.0.1:1", f"unix://{tmp_path}/nobody.sock"):
        async with Client(url) as client:
            with pytest.raises(StoreUnavailable, match="cannot reach"):
                await client.call("PING")


async def test_a_server_that_talks_nonsense_is_a_store_that_is_unavailable() -> None:
    async with scripted(HELLO, b"HTTP/1.1 400 Bad Request\r\n\r\n") as url, Client(url) as client:
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)  # asyncio tells of the parser's complaint
        with pytest.raises(StoreUnavailable):
            await client.call("PING")
        asyncio.get_running_loop().set_exception_handler(None)


async def test_a_server_that_accepts_and_stays_silent_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CONNECT_TIMEOUT_S", 0.2)
    async with scripted(None) as url, Client(url) as client:
        with pytest.raises(StoreUnavailable, match="cannot reach"):
            await client.call("PING")


async def test_a_server_that_falls_silent_frees_its_callers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REPLY_TIMEOUT_S", 0.3)
    async with scripted(HELLO, b"+PONG\r\n", None) as url, Client(url) as client:
        assert await client.call("PING") == b"PONG"
        async with asyncio.timeout(5):
            with pytest.raises(StoreUnavailable, match="broke before it answered"):
                await client.call("PING")


async def test_a_killed_server_is_found_again_with_its_data(own: EmbeddedValkey) -> None:
    async with Client(own.url) as client:
        await client.call("SET", "kept", "yes")
        waiting = asyncio.create_task(client.call("BLPOP", "nothing", 0))
        await asyncio.sleep(0)  # it is sent
        kill(own.pid)
        with pytest.raises(StoreUnavailable):
            await waiting
        with pytest.raises(StoreUnavailable):
            await client.call("GET", "kept")
        await own.start()
        assert await client.call("GET", "kept") == b"yes"


async def test_functions_are_loaded_when_the_server_does_not_have_them(own: EmbeddedValkey) -> None:
    library = FunctionLibrary("probe", {"twice": "return ARGV[1] * 2"})
    async with Client(own.url) as client:
        assert await client.fcall(library, "twice", ["k"], 21) == 42
        await client.call("FUNCTION", "FLUSH")
        assert await client.fcall(library, "twice", ["k"], 4) == 8
        await client.call("FUNCTION", "FLUSH")
        batch: Sequence[Sequence[str | int]] = [("SET", "a", 1), ("FCALL", library.name("twice"), 1, "k", 5)]
        assert await client.calls(batch, library) == [b"OK", 10]


async def test_closing_is_safe_before_the_first_call_and_twice(valkey: EmbeddedValkey) -> None:
    client = Client(valkey.url)
    await client.aclose()
    await client.aclose()
    with pytest.raises(StoreUnavailable, match="closed"):
        await client.call("PING")


class Ear:
    """Hears a channel."""

    def __init__(self) -> None:
        self.heard: asyncio.Queue[bytes | None] = asyncio.Queue()

    async def next(self) -> bytes | None:
        async with asyncio.timeout(5):
            return await self.heard.get()


async def test_what_is_said_on_a_channel_reaches_all_its_listeners_and_no_other(client: Client) -> None:
    subscriptions = Subscriptions(client)
    one, two, other = Ear(), Ear(), Ear()
    async with (
        subscriptions.listen("chan-1", one.heard.put_nowait),
        subscriptions.listen("chan-1", two.heard.put_nowait),
        subscriptions.listen("chan-2", other.heard.put_nowait),
    ):
        for ear in (one, other):
            assert await ear.next() is None, "the subscription holds from here on"
        await client.call("SPUBLISH", "chan-1", "hello")
        assert await one.next() == b"hello"
        while (heard := await two.next()) is None:
            pass
        assert heard == b"hello"
    assert other.heard.empty()
    await subscriptions.aclose()
    await subscriptions.aclose()


async def test_a_listener_that_left_hears_nothing_and_may_come_back(client: Client) -> None:
    subscriptions = Subscriptions(client)
    ear = Ear()
    for word in ("one", "two"):
        async with subscriptions.listen("chan-3", ear.heard.put_nowait):
            assert await ear.next() is None
            await client.call("SPUBLISH", "chan-3", word)
            assert await ear.next() == word.encode()
    await client.call("SPUBLISH", "chan-3", "nobody")
    assert ear.heard.empty()
    await subscriptions.aclose()


async def test_listeners_are_woken_after_the_server_was_away(own: EmbeddedValkey) -> None:
    """What was said meanwhile is lost, so everybody must look for himself."""
    async with Client(own.url) as client:
        subscriptions = Subscriptions(client)
        ear = Ear()
        async with subscriptions.listen("chan-4", ear.heard.put_nowait):
            assert await ear.next() is None
            kill(own.pid)
            await own.start()
            assert await ear.next() is None
            await client.call("SPUBLISH", "chan-4", "again")
            assert await ear.next() == b"again"
        await subscriptions.aclose()


async def test_listening_may_begin_while_the_server_is_away(own: EmbeddedValkey) -> None:
    async with Client(own.url) as client:
        await own.stop()
        subscriptions = Subscriptions(client)
        ear = Ear()
        async with subscriptions.listen("chan-5", ear.heard.put_nowait):
            await own.start()
            assert await ear.next() is None
        await subscriptions.aclose()


async def test_a_network_that_drops_everything_for_a_while_is_a_store_that_is_away(
    own: EmbeddedValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut, silent and refusing, and back each time: nobody hangs, and the client needs no help to go on."""
    monkeypatch.setattr(module, "REPLY_TIMEOUT_S", 0.3)
    monkeypatch.setattr(module, "CONNECT_TIMEOUT_S", 0.3)
    server = module.Address.parse(own.url)
    assert server.path is not None
    async with Proxy(server.path) as network, Client(f"valkey://:{server.password}@{network.address}") as client:
        assert await client.call("SET", "kept", "yes") == b"OK"

        async def is_away() -> None:
            async with asyncio.timeout(5):
                with pytest.raises(StoreUnavailable):
                    await client.call("GET", "kept")

        network.pause()
        await is_away()
        await is_away()
        network.resume()
        assert await client.call("GET", "kept") == b"yes"
        network.refusing = True
        network.cut()
        await is_away()
        await is_away()
        network.refusing = False
        assert await client.call("GET", "kept") == b"yes"
        assert network.connections == 1


async def test_the_kernel_asks_after_a_server_that_a_blocking_read_or_a_subscription_waits_for() -> None:
    """They wait for ever by nature, so only the kernel can notice that the other machine is gone."""
    async with scripted(HELLO) as url:
        connection = await Connection.open(module.Address.parse(url))
        assert connection._transport is not None
        sock = connection._transport.get_extra_info("socket")
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        if sys.platform == "linux":
            idle, every, times = (
                sock.getsockopt(socket.IPPROTO_TCP, option)
                for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
            )
            assert idle + every * times <= 20
        connection.close()
        await connection.closed
