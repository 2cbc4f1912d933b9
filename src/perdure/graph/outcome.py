"""How an attempt ended; the worker turns it into the store's verb."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import msgspec

from perdure.lifecycle.events import NewEvent
from perdure.lifecycle.task import Interrupt, TaskError


class Finished(msgspec.Struct, frozen=True):
    """The graph ended. `result` is JSON; `events` come before the terminal one, for `store.succeed`."""

    result: bytes
    events: Sequence[NewEvent] = ()


class Paused(msgspec.Struct, frozen=True):
    """Questions or breakpoints wait for answers, for `store.pause`."""

    interrupts: Sequence[Interrupt]
    checkpoint_id: str
    events: Sequence[NewEvent] = ()


class Drained(msgspec.Struct, frozen=True):
    """The run stopped between two steps because it was asked to. All events are stored: for `store.give_back`."""


class Failed(msgspec.Struct, frozen=True):
    """The graph raised, or made what cannot be stored, for `store.fail`."""

    error: TaskError
    reason: str
    events: Sequence[NewEvent] = ()


Outcome: TypeAlias = Finished | Paused | Drained | Failed
