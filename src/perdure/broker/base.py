"""The broker port: four verbs around a doorbell.

The store is the truth. A lost ring is rung again by the rescuer and a doubled one finds its task claimed, so a
backend promises at-least-once delivery and nothing more: order holds only roughly, within one class of one tier.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager

from perdure.lifecycle.doorbell import Doorbell
from perdure.lifecycle.task import Priority


class Delivery(ABC):
    """A doorbell that reached this consumer and is its own until acked or released."""

    doorbell: Doorbell

    @abstractmethod
    async def ack(self) -> None:
        """The task was claimed, or needs no claim: never deliver this ring again. Safe to repeat."""

    @abstractmethod
    async def release(self) -> None:
        """Give the ring back at once, so that another consumer gets it."""


class Consumer(ABC):
    """One worker's ear at a tier."""

    @abstractmethod
    async def receive(self, free: int) -> Sequence[Delivery]:
        """Wait until at least one doorbell rings and return at most `free` of them, the most urgent class first.

        Cancellation loses no delivery: what was already taken is redelivered, to this or another consumer.
        Raises BrokerUnavailable when the broker is away; calling again tries again.
        """


class Broker(ABC):
    """Rings and hears doorbells.

    `in_order_with_store` is True where a ring that is published after a store's verb was begun, in the same process,
    is heard only after that verb took effect. Then a caller that knows the ring beforehand need not wait in between.
    """

    in_order_with_store: bool = False

    @abstractmethod
    async def publish(self, doorbells: Sequence[Doorbell]) -> None:
        """Ring. Returns once the broker has confirmed all of them; raises BrokerUnavailable if it did not.

        After an error some may have been rung all the same.
        """

    @abstractmethod
    def consume(
        self, tier: str, consumer: str, classes: Sequence[Priority] = tuple(Priority)
    ) -> AbstractAsyncContextManager[Consumer]:
        """Listen at `tier` for the given classes. `consumer` is a name unique among live consumers.

        Leaving the context gives back what was received and not acked.
        """

    @abstractmethod
    async def depth(self, tier: str) -> int:
        """How many rings wait at `tier`, roughly; for metrics only."""

    @abstractmethod
    async def aclose(self) -> None:
        """Release all connections. Safe to repeat."""
