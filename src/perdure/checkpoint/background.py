"""A private event loop in a thread, with a resource of its own, for callers that are not asynchronous."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import weakref
from collections.abc import Callable, Coroutine
from typing import Any, Final, Generic, Protocol, TypeVar

from perdure.errors import StoreUnavailable


class Closable(Protocol):
    """Something that lives in one event loop and is closed there."""

    async def aclose(self) -> None: ...


R = TypeVar("R", bound=Closable)
T = TypeVar("T")
_STOP_TIMEOUT_S: Final = 5.0


class Background(Generic[R]):
    """Runs coroutines over one resource for synchronous callers, from any thread.

    Thread and resource are made at the first call. It must not be called from inside a coroutine that it runs.
    """

    def __init__(self, make: Callable[[], R]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._running: tuple[asyncio.AbstractEventLoop, R, weakref.finalize[Any, Any]] | None = None
        self._closed = False

    @property
    def resource(self) -> R:
        """The resource, for coroutines that `run` will run."""
        return self._start()[1]

    def run(self, work: Callable[[R], Coroutine[Any, Any, T]]) -> T:
        """Wait for `work(resource)`. If the waiting caller is interrupted, the work is cancelled."""
        loop, resource = self._start()
        future = asyncio.run_coroutine_threadsafe(work(resource), loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def close(self) -> None:
        """Stop the thread and close the resource. Safe to repeat, and before the first call."""
        with self._lock:
            self._closed = True
            running, self._running = self._running, None
        if running is not None:
            running[2]()

    async def aclose(self) -> None:
        """The same without blocking the caller's event loop."""
        if self._running is None:
            self.close()
        else:
            await asyncio.to_thread(self.close)

    def _start(self) -> tuple[asyncio.AbstractEventLoop, R]:
        with self._lock:
            if self._closed:
                raise StoreUnavailable("this saver or store was closed: make a new one")
            if self._running is None:
                loop = asyncio.new_event_loop()
                resource = self._make()
                thread = threading.Thread(target=_serve, args=(loop, resource), name="perdure-checkpoint", daemon=True)
                thread.start()
                # Whoever forgets to close it must not leave the thread behind.
                self._running = (loop, resource, weakref.finalize(self, _stop, loop, thread))
            return self._running[:2]


def _serve(loop: asyncio.AbstractEventLoop, resource: Closable) -> None:
    asyncio.set_event_loop(loop)
    loop.run_forever()
    loop.run_until_complete(resource.aclose())
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    if tasks:
        loop.run_until_complete(asyncio.wait(tasks))
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()


def _stop(loop: asyncio.AbstractEventLoop, thread: threading.Thread) -> None:
    with contextlib.suppress(RuntimeError):  # The loop is closed already.
        loop.call_soon_threadsafe(loop.stop)
    if thread is not threading.current_thread():
        thread.join(_STOP_TIMEOUT_S)
