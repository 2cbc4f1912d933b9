"""Keeps `sys.exit` in an author's code from ending the worker: it fails the task like any other exception."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator
from typing import Any

from perdure.graph.author import current_attempt


class AuthorExit(Exception):
    """What SystemExit and KeyboardInterrupt of an author's code become; the original is the cause."""


def contain_exits(loop: asyncio.AbstractEventLoop) -> None:
    """From now on, asyncio tasks of an attempt raise AuthorExit where they would end the event loop.

    asyncio hands these two exceptions on to the loop, past everybody who awaits the task; so they are caught inside of
    each task. Does nothing where another task factory is set.
    """
    if loop.get_task_factory() is None:
        loop.set_task_factory(_task)


def _task(loop: asyncio.AbstractEventLoop, coroutine: Any, **more: Any) -> asyncio.Task[Any]:
    # Not our own tasks: their context has no attempt in it.
    context = more.get("context")
    attempt = current_attempt.get() if context is None else context.get(current_attempt)
    return asyncio.Task(_Contained(coroutine) if attempt is not None else coroutine, loop=loop, **more)


class _Contained(Coroutine[Any, Any, Any]):
    """The author's coroutine. Not an `async def` around it: that would never await it if it were cancelled early."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.__name__ = getattr(inner, "__name__", "author")
        self.__qualname__ = getattr(inner, "__qualname__", "author")

    def send(self, value: Any) -> Any:
        try:
            return self._inner.send(value)
        except (SystemExit, KeyboardInterrupt) as error:
            raise _told(error) from error

    def throw(self, *error: Any) -> Any:
        try:
            return self._inner.throw(*error)
        except (SystemExit, KeyboardInterrupt) as raised:
            raise _told(raised) from raised

    def close(self) -> None:
        self._inner.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        return (yield from self._inner.__await__())


def _told(error: SystemExit | KeyboardInterrupt) -> AuthorExit:
    text = str(error)
    return AuthorExit(f"the graph's code raised {type(error).__name__}{f' ({text})' if text else ''}")
