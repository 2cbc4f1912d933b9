"""Time and randomness, handed in: nobody else in Perdure reads the machine's clock or its random numbers."""

from __future__ import annotations

import secrets
import time
from typing import Protocol

import uuid_utils


class Clock(Protocol):
    """What the rest of the house may know about time and chance."""

    def now_ms(self) -> int:
        """Milliseconds since 1970 by the wall clock; may jump."""
        ...

    def monotonic(self) -> float:
        """Seconds that never run backwards; only differences mean something."""
        ...

    def uuid7(self) -> str:
        """A fresh UUIDv7 in its usual text form; sorts by time."""
        ...

    def nonce(self) -> str:
        """16 random characters that nobody can guess."""
        ...


class SystemClock:
    """The machine's own clock and random numbers."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic(self) -> float:
        return time.monotonic()

    def uuid7(self) -> str:
        return str(uuid_utils.uuid7())

    def nonce(self) -> str:
        return secrets.token_hex(8)
