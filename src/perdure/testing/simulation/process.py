"""A simulated process: everything that runs in it can be held still, or ended in the middle of anything."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from perdure.testing.simulation.loop import VirtualLoop

T = TypeVar("T")

running_process: contextvars.ContextVar[Process | None] = contextvars.ContextVar("simulated_process", default=None)


class Process:
    """Work belongs to the process in whose context it was begun, whatever it begins in turn.

    A process that is still or dead runs nothing: what becomes ready waits in its backlog. A still one goes on with
    it, late, as after SIGCONT; a dead one never does, so none of its cleanup runs either, as after SIGKILL.
    """

    def __init__(self, name: str, loop: VirtualLoop) -> None:
        self.name = name
        self.dead = False
        self.still = False
        self.still_until = -1.0
        """When it last went on after having been held still."""
        self._loop = loop
        self._context = contextvars.copy_context()
        self._context.run(running_process.set, self)
        self._backlog: list[asyncio.Handle] = []
        self._ended: asyncio.Future[str] = loop.create_future()

    @property
    def runs(self) -> bool:
        return not (self.dead or self.still)

    def start(self, work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        """Begin work in this process."""
        return self._loop.create_task(work, name=f"{self.name}: {name}", context=self._context.copy())

    def call_later(self, delay_s: float, callback: Any, *args: Any) -> None:
        self._loop.call_later(delay_s, callback, *args, context=self._context)

    def hold_still(self) -> None:
        """SIGSTOP."""
        self.still = True

    def go_on(self) -> None:
        """SIGCONT. Does nothing to a dead process."""
        self.still = False
        self.still_until = self._loop.time()
        if not self.dead:
            self._empty_backlog()

    def kill(self, why: str) -> None:
        """SIGKILL. Safe to repeat."""
        self.dead = True
        if not self._ended.done():
            self._ended.set_result(why)

    def leave(self) -> None:
        """It ended by itself; what is left of it, which is nothing, may go on."""
        if not self._ended.done():
            self._ended.set_result("left")

    async def wait_ended(self) -> str:
        """Why it ended."""
        return await asyncio.shield(self._ended)

    def bury(self) -> None:
        """The simulation is over: let what is left of it be cancelled and collected."""
        self.dead = self.still = False
        if not self._ended.done():
            self._ended.cancel()
        self._empty_backlog()

    def take(self, handle: asyncio.Handle) -> None:
        """Called by the loop with what this process cannot run now."""
        self._backlog.append(handle)

    def _empty_backlog(self) -> None:
        waiting, self._backlog = self._backlog, []
        for handle in waiting:
            self._loop.run_soon(handle)
