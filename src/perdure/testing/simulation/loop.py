"""An event loop in virtual time: deterministic, without threads, sockets or waiting."""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import itertools
import sys
from asyncio import events
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, Final, TypeVar, TypeVarTuple, Unpack

from perdure.testing.simulation.process import Process, running_process

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

TURNS_MAX: Final = 300_000
TURN_S: Final = 2e-6


class StandsStill(Exception):
    """Nothing is ready, no timer is set, and the work is not done: a deadlock."""


class VirtualLoop(asyncio.BaseEventLoop):
    """Runs what is ready in the order in which it became so, then jumps to the next timer.

    What belongs to a process that is still or dead is handed to that process instead. Raises StandsStill in a
    deadlock, and after `TURNS_MAX` callbacks.
    """

    def __init__(self) -> None:
        super().__init__()
        self.turns = 0
        self.turns_max = TURNS_MAX
        self._now = 0.0
        self._soon: deque[_Soon | _Later] = deque()
        self._later: list[tuple[float, int, _Later]] = []
        self._numbers = itertools.count()
        self._stopped = False

    def time(self) -> float:
        return self._now

    def call_soon(
        self, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        handle = _Soon(callback, args, self, context if context is not None else contextvars.copy_context())
        self._soon.append(handle)
        return handle

    def call_soon_threadsafe(
        self, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        return self.call_soon(callback, *args, context=context)

    def call_later(
        self,
        delay: float,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_at(
        self,
        when: float,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        handle = _Later(when, callback, args, self, context if context is not None else contextvars.copy_context())
        heapq.heappush(self._later, (when, next(self._numbers), handle))
        return handle

    def run_soon(self, handle: asyncio.Handle) -> None:
        """Run a handle that a process had in its backlog."""
        assert isinstance(handle, _Soon | _Later)
        self._soon.append(handle)

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[Unpack[Ts]], T], *args: *Ts
    ) -> asyncio.Future[T]:
        raise RuntimeError(f"{func!r} wants a thread, and a simulation has none: use async code")

    def is_running(self) -> bool:
        return events._get_running_loop() is self

    def stop(self) -> None:
        self._stopped = True

    def run_forever(self) -> None:
        hooks = sys.get_asyncgen_hooks()
        sys.set_asyncgen_hooks(finalizer=self._close_generator)
        events._set_running_loop(self)
        try:
            while not self._stopped:
                self._turn()
        finally:
            self._stopped = False
            events._set_running_loop(None)
            sys.set_asyncgen_hooks(*hooks)

    def _turn(self) -> None:
        soon, later = self._soon, self._later
        if soon:
            # Work takes a little time, so that whoever waits busily for a timer sees it come.
            self._now += TURN_S
        else:
            while later and later[0][2].cancelled():
                heapq.heappop(later)
            if not later:
                raise StandsStill("nothing is ready and no timer is set")
            self._now = max(self._now, later[0][0])
        while later and later[0][0] <= self._now:
            soon.append(heapq.heappop(later)[2])
        self._run(soon.popleft())

    def _run(self, handle: _Soon | _Later) -> None:
        if handle.cancelled():
            return
        self.turns += 1
        if self.turns > self.turns_max:
            self.turns_max += TURNS_MAX
            raise StandsStill(f"{self.turns:,} callbacks did not end the work; the last was {handle!r}")
        process = handle.process
        if process is None or process.runs:
            handle._run()
        else:
            process.take(handle)

    def _close_generator(self, generator: Any) -> None:
        self.call_soon(self.create_task, generator.aclose())


class _Soon(asyncio.Handle):
    __slots__ = ("process",)

    def __init__(
        self,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        loop: asyncio.AbstractEventLoop,
        context: contextvars.Context,
    ) -> None:
        super().__init__(callback, args, loop, context)
        self.process: Process | None = context.get(running_process)


class _Later(asyncio.TimerHandle):
    __slots__ = ("process",)

    def __init__(
        self,
        when: float,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        loop: asyncio.AbstractEventLoop,
        context: contextvars.Context,
    ) -> None:
        super().__init__(when, callback, args, loop, context)
        self.process: Process | None = context.get(running_process)
