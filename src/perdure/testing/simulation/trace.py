"""What happened, in order: kept only when somebody wants to read it."""

from __future__ import annotations

import asyncio
from typing import Final

TAIL: Final = 60


class Trace:
    """Lines with the virtual time and who did it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *, kept: bool) -> None:
        self.kept = kept
        self.lines: list[str] = []
        self._loop = loop

    def tell(self, who: str, what: str) -> None:
        if self.kept:
            self.lines.append(f"{self._loop.time():9.3f}  {who:<12} {what}")
