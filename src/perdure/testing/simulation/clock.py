"""The clock of a simulation: virtual time, and ids that a seed repeats."""

from __future__ import annotations

import asyncio
import random
from typing import Final

BORN_MS: Final = 1_800_000_000_000


class SimClock:
    """Reads the loop's time. Ids come from the seed and sort by time, as real ones do."""

    def __init__(self, loop: asyncio.AbstractEventLoop, seed: int) -> None:
        self._loop = loop
        self._random = random.Random(f"clock {seed}")
        self._made = 0

    def now_ms(self) -> int:
        return BORN_MS + int(self._loop.time() * 1000)

    def monotonic(self) -> float:
        return self._loop.time()

    def uuid7(self) -> str:
        self._made += 1
        time = f"{self.now_ms():012x}"
        return f"{time[:8]}-{time[8:]}-7000-8000-{self._made:012x}"

    def nonce(self) -> str:
        return f"{self._random.getrandbits(64):016x}"
