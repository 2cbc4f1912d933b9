"""The gateway's socket, and the HTTP server that ends the streams before it waits for its connections."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import uvicorn

from perdure.errors import ConfigurationError
from perdure.gateway.app import Gateway

LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")
BACKLOG: Final = 4_096
GRACE_S: Final = 5


def listen(host: str, port: int, *, open_to_all: bool) -> socket.socket:
    """Take the port before anything is started. Raises ConfigurationError if it is taken, or if `host` can be reached
    by others and nothing says that they may (`open_to_all`)."""
    if host not in LOOPBACK and not open_to_all:
        raise ConfigurationError(
            f"host {host} can be reached by others: set PERDURE_API_KEYS, or say --insecure if that is meant"
        )
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise ConfigurationError(
            f"cannot listen on {host}:{port}: {error.strerror}; "
            "stop what uses the port, or choose another with --port (0 takes a free one)"
        ) from error
    listener.setblocking(False)
    return listener


async def serve(
    gateway: Gateway, listener: socket.socket, on_ready: Callable[[str], None], stop: asyncio.Event
) -> None:
    """Serve until `stop`. `on_ready(url)` is called once it answers. Streams are closed, for clients to resume."""
    async with serving(gateway, listener, gateway.drain) as url:
        on_ready(url)
        await stop.wait()
    await gateway.aclose()


@contextlib.asynccontextmanager
async def serving(app: Any, listener: socket.socket, drain: Callable[[], None] | None = None) -> AsyncIterator[str]:
    """Serve on a bound socket; yields the address once requests are answered, and closes the socket at the end.

    Leaving calls `drain` first, which must end the streams: uvicorn tells an application that it ends only after all
    connections have closed, which a stream never does by itself. Calls that still run have `GRACE_S` seconds. Signals
    stay the caller's.
    """
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        ws="none",
        backlog=BACKLOG,
        timeout_graceful_shutdown=GRACE_S,
    )
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    host, port = listener.getsockname()[:2]
    await server.startup(sockets=[listener])
    ticking = asyncio.create_task(server.main_loop(), name="the server's clock")
    try:
        yield f"http://{f'[{host}]' if ':' in host else host}:{port}"
    finally:
        ticking.cancel()
        if drain is not None:
            drain()
        await server.shutdown(sockets=[listener])
