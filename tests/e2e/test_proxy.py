"""Through an nginx that cuts every request: a long task is followed to its end, and accepts leave no socket open."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from perdure.client import AsyncClient
from perdure.testing.faults import DevStack, free_port, wait_gone, wait_until

pytestmark = pytest.mark.anyio

CONFIG = """
daemon off;
worker_processes 1;
worker_shutdown_timeout 1ms;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 1024; }}
http {{
    access_log {folder}/access.log;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass {target};
            proxy_http_version 1.1;
            proxy_read_timeout {silence_s}s;
        }}
    }}
}}
"""


def nginx_binary() -> str:
    found = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
    if found is None:
        pytest.fail("these tests need the binary `nginx`: install it (Debian: apt-get install nginx-light)")
    return found


class Nginx:
    """A running nginx in front of a deployment."""

    def __init__(self, folder: Path, port: int, process: subprocess.Popen[bytes]) -> None:
        self.folder, self.url, self.process = folder, f"http://127.0.0.1:{port}", process

    async def cut_every(self, seconds: float) -> None:
        """Cut all requests that run, again and again: a reload ends the old worker, and that its connections."""
        while True:
            await asyncio.sleep(seconds)
            self.process.send_signal(signal.SIGHUP)

    @property
    def requests(self) -> list[str]:
        """The access log."""
        return (self.folder / "access.log").read_text().splitlines()


@asynccontextmanager
async def nginx(folder: Path, target: str, *, silence_s: int, cut_every_s: float | None = None) -> AsyncIterator[Nginx]:
    """An nginx that gives up a request whose upstream is silent for `silence_s`, and cuts all every `cut_every_s`."""
    port = free_port()
    config = folder / "nginx.conf"
    config.write_text(CONFIG.format(folder=folder, port=port, target=target, silence_s=silence_s))
    cutting: asyncio.Task[None] | None = None
    process = subprocess.Popen([nginx_binary(), "-c", str(config), "-p", str(folder)])  # noqa: ASYNC220
    try:
        async with asyncio.timeout(10):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    break
                except OSError:
                    assert process.poll() is None, (folder / "error.log").read_text()
                    await asyncio.sleep(0.01)  # nginx does not say when it listens
        writer.close()
        await writer.wait_closed()
        running = Nginx(folder, port, process)
        if cut_every_s is not None:
            cutting = asyncio.create_task(running.cut_every(cut_every_s))
        yield running
    finally:
        if cutting is not None:
            cutting.cancel()
        process.terminate()
        wait_gone(process.pid)
        process.wait()


async def follow_through(proxy: Nginx, *, seconds: float, count: int) -> int:
    """Submit a task that speaks `count` times over `seconds`, follow it; nothing may be missing, doubled or a 504.

    Returns how many requests it took to follow it.
    """
    async with AsyncClient(proxy.url) as client:
        task = await client.submit("speaks", {"count": count, "pace": seconds})
        events = [event async for event in client.stream(task.task_id)]
        numbers = [event["seq"] for event in events]
        assert numbers == list(range(1, len(numbers) + 1)), "a gap or a double"
        said = [event["params"]["data"]["n"] for event in events if event["params"]["tag"] == "THOUGHT"]
        assert said == list(range(count))
        assert events[-1]["params"]["data"]["status"] == "succeeded"
        assert (await client.wait(task.task_id, 10)).status == "succeeded"
    assert not [line for line in proxy.requests if '" 504 ' in line or '" 502 ' in line]
    return len([line for line in proxy.requests if "/events" in line])


async def test_a_task_that_outlasts_every_request_is_followed_to_its_end(stack: DevStack, tmp_path: Path) -> None:
    """Each request lives three seconds, the task eight."""
    async with nginx(tmp_path, stack.url, silence_s=30, cut_every_s=3) as proxy:
        assert await follow_through(proxy, seconds=8, count=800) >= 3


@pytest.mark.chaos
@pytest.mark.timeout(200)
async def test_a_task_of_75_s_is_followed_through_a_proxy_that_cuts_at_30_s(stack: DevStack, tmp_path: Path) -> None:
    async with nginx(tmp_path, stack.url, silence_s=30, cut_every_s=30) as proxy:
        assert await follow_through(proxy, seconds=75, count=7_500) >= 3


async def test_a_proxy_that_gives_up_on_silence_is_come_back_to(stack: DevStack, tmp_path: Path) -> None:
    """Steps of two seconds behind a proxy with one second of patience: cut in each, and nothing is missed."""
    async with nginx(tmp_path, stack.url, silence_s=1) as proxy, AsyncClient(proxy.url) as client:
        task = await client.submit("slow", {"pace": 2.0})
        events = [event async for event in client.stream(task.task_id)]
        assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
        assert events[-1]["params"]["data"]["status"] == "succeeded"
        assert len([line for line in proxy.requests if "/events" in line]) >= 5


def sockets(pid: int) -> int:
    """How many sockets a process has open."""
    found = 0
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found += os.readlink(descriptor).startswith("socket:")
        except FileNotFoundError:
            continue
    return found


@pytest.mark.parametrize("count", [2_000, pytest.param(10_000, marks=[pytest.mark.chaos, pytest.mark.timeout(300)])])
async def test_accepting_leaves_no_socket_open(stack: DevStack, tmp_path: Path, count: int) -> None:
    """Half of the posts directly, half through the proxy; tasks that are accepted hold nothing of the gateway."""
    async with httpx.AsyncClient(trust_env=False) as probe:
        await probe.get(f"{stack.url}/livez")
    before = sockets(stack.pid)
    thread_ids = [f"sockets-{os.getpid()}-{count}-{n}" for n in range(32)]
    async with nginx(tmp_path, stack.url, silence_s=30) as proxy:
        ids: list[str] = []
        limits = httpx.Limits(max_connections=32, max_keepalive_connections=0)
        async with httpx.AsyncClient(trust_env=False, limits=limits, timeout=60) as http:

            async def post(number: int) -> None:
                url = stack.url if number % 2 else proxy.url
                body = {"graph": "echo", "input": {}, "after_s": 3_600, "thread_id": thread_ids[number % 32]}
                answer = await http.post(f"{url}/v1/tasks", json=body)
                assert answer.status_code == 202, answer.text
                ids.append(answer.json()["task_id"])

            async def some(numbers: range) -> None:
                for number in numbers:
                    await post(number)

            await asyncio.gather(*(some(range(first, count, 32)) for first in range(32)))
    assert len(set(ids)) == count
    await wait_until(lambda: sockets(stack.pid) <= before, 10)
