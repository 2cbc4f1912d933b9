"""The rescuer: takes expired leases away, ends what is past its deadline, and rings for tasks that nobody holds.

Any number may run at once. Each look at a thread is one atomic step of the store, so two rescuers, or a rescuer and
an owner that comes back, can do no harm to each other.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from perdure.broker.base import Broker
from perdure.errors import BrokerUnavailable, PerdureError, StoreUnavailable
from perdure.lifecycle.doorbell import Doorbell
from perdure.store.base import TaskStore

log = logging.getLogger(__name__)

LOOK_EVERY_S: Final = 0.5
BATCH: Final = 500


class Rescuer:
    """`run` looks at due threads until it is cancelled."""

    def __init__(self, store: TaskStore, broker: Broker, look_every_s: float = LOOK_EVERY_S) -> None:
        self._store = store
        self._broker = broker
        self._look_every_s = look_every_s

    async def run(self) -> None:
        """Never ends by itself. A store or broker that is away is waited for."""
        while True:
            try:
                while await self.look() == BATCH:
                    pass
            except PerdureError as error:
                log.warning("the rescuer waits for the store: %s", error)
            await asyncio.sleep(self._look_every_s)

    async def look(self) -> int:
        """Mend what is due now; returns how many threads were looked at. Raises StoreUnavailable.

        A thread that cannot be looked at, for its record is damaged, is told of and passed over.
        """
        due = await self._store.due(BATCH)
        bells: list[Doorbell] = []
        looked = 0
        answers = await asyncio.gather(*map(self._store.rescue, due), return_exceptions=True)
        for one, answer in zip(due, answers, strict=True):
            if isinstance(answer, StoreUnavailable):
                raise answer
            if isinstance(answer, BaseException):
                log.error("the rescuer cannot look at thread %s", one.thread.thread_id, exc_info=answer)
                continue
            looked += 1
            if answer is not None:
                bells.append(answer)
        if bells:
            try:
                await self._broker.publish(bells)
                log.info("rang again for %d tasks", len(bells))
            except BrokerUnavailable as error:
                # The store has set the time of the next look, at which they are rung for again.
                log.warning("the rescuer cannot ring for %d tasks: %s", len(bells), error)
        return looked
