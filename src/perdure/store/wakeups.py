"""An event feed that other code wakes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from perdure.store.base import EventFeed


class WakeUps(EventFeed):
    """Yields once at the start and once after any number of wake-ups."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self._event.set()

    def wake(self, _: bytes | None = None) -> None:
        self._event.set()

    async def __aiter__(self) -> AsyncIterator[None]:
        while True:
            await self._event.wait()
            self._event.clear()
            yield
