"""Through an nginx that cuts every request: a long task is followed to its end, and accepts leave no socket open."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from perdure.client import AsyncClient
from perdure.testing.faults import DevStack, _free_port, wait_gone

pytestmark = pytest.mark.anyio

CONFIG = """
daemon off;
worker_processes 1;
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
            proxy_read_timeout {read_timeout_s}s;
        }}
    }}
}}
"""


def nginx_binary() -> str:
    found = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
    if found is None:
        pytest.fail("these tests need the binary `nginx`: install it (Debian: apt-get install nginx-light)")
    return found


@asynccontextmanager
async def nginx(folder: Path, target: str, read_timeout_s: int) -> AsyncIterator[str]:
    """An nginx in front of `target` that gives up a request whose upstream has been silent for so long."""
    port = _free_port()
    config = folder / "nginx.conf"
    config.write_text(CONFIG.format(folder=folder, port=port, target=target, read_timeout_s=read_timeout_s))
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
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        wait_gone(process.pid)
        process.wait()
