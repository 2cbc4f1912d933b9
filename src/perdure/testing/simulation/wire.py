"""The wire between a process and a server: every call over it can be lost, late, or done without an answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from perdure.errors import DependencyError, PerdureError
from perdure.testing.simulation.loop import VirtualLoop
from perdure.testing.simulation.process import Process
from perdure.testing.simulation.weather import Chance

T = TypeVar("T")


class Server:
    """A process that answers calls. It runs a call when it arrives, in one piece.

    A restart breaks every connection: calls that are on their way are never run, answers never arrive.
    """

    def __init__(self, name: str, loop: VirtualLoop, away: type[DependencyError]) -> None:
        self.process = Process(name, loop)
        self.up = True
        self.away = away
        self.generation = 0
        self._calls: dict[int, asyncio.Future[Any]] = {}
        self._number = 0

    def crash(self) -> None:
        """Break all connections and answer nobody until `start`."""
        self.up = False
        self.generation += 1
        calls, self._calls = self._calls, {}
        for answer in calls.values():
            if not answer.done():
                answer.set_exception(self.away(f"the connection to the {self.process.name} broke"))

    def start(self) -> None:
        self.up = True

    def expect(self, answer: asyncio.Future[Any]) -> int:
        """Break this answer too if the server crashes. Returns what `forget` takes."""
        self._number += 1
        self._calls[self._number] = answer
        return self._number

    def forget(self, number: int) -> None:
        self._calls.pop(number, None)


class Wire:
    """One process's connection to a server."""

    def __init__(self, server: Server, chance: Chance) -> None:
        self.server = server
        self.chance = chance

    async def ask(self, what: str, act: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Have `act` run at the server. Raises what it raises, or the server's error while it is away; after the
        latter, `act` may have run, or may run later."""
        server, fate = self.server, self.chance.fate()
        answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        generation = server.generation

        def arrive() -> None:
            if not server.up or server.generation != generation:
                fail()
                return
            try:
                result = run_now(act())
            except PerdureError as error:
                if not fate.lost_reply:
                    later(lambda error=error: answer.set_exception(error))  # type: ignore[misc]
                return
            if not fate.lost_reply:
                later(lambda: answer.set_result(result))

        def later(tell: Callable[[], None]) -> None:
            server.process.call_later(fate.back_s, lambda: None if answer.done() else tell())

        def fail() -> None:
            if not answer.done():
                answer.set_exception(server.away(f"{what}: no answer from the {server.process.name}"))

        if not fate.lost_request:
            server.process.call_later(fate.there_s, arrive)
        if fate.patience_s is not None:
            server.process.call_later(fate.patience_s, fail)
        number = server.expect(answer)
        try:
            return await answer
        finally:
            server.forget(number)


def run_now(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never waits, as the verbs of the memory store are."""
    try:
        work.send(None)
    except StopIteration as ended:
        result: T = ended.value
        return result
    work.close()
    raise RuntimeError(f"{work!r} waits, and a server must run each call in one piece")
