"""The weather of a simulation: which faults strike, and how often; drawn from the seed."""

from __future__ import annotations

import random
from typing import Final

import msgspec

CALM_S: Final = 0.004


class Fate(msgspec.Struct, frozen=True):
    """What happens to one message: how long each way takes, and what gets lost."""

    there_s: float
    back_s: float
    lost_request: bool = False
    lost_reply: bool = False
    patience_s: float | None = None
    """After this the sender gives up, while the request may still arrive."""


class Weather(msgspec.Struct, frozen=True):
    """Rates of faults. Those of messages are chances for each; those of machines are mean seconds between two."""

    lost_request: float = 0.0
    lost_reply: float = 0.0
    late: float = 0.0
    late_max_s: float = 1.0
    bell_lost: float = 0.0
    bell_doubled: float = 0.0
    bell_stray: float = 0.0
    """A ring for a task that nobody meant, such as one that waits behind another."""
    cut_stream: float = 0.0
    crash_every_s: float = 0.0
    stop_every_s: float = 0.0
    restart_every_s: float = 0.0
    host_lost: float = 0.0
    blocked_loop: float = 0.0
    """The part of stops in which only the event loop stands still, not the lease keeper's thread."""
    drain: float = 0.0
    """The part of ends that are a SIGTERM."""

    @classmethod
    def of(cls, rng: random.Random) -> Weather:
        """Most seeds have a few kinds of fault, so that each is seen alone and together with others."""

        def often(part: float) -> bool:
            return rng.random() < part

        return cls(
            lost_request=rng.uniform(0.005, 0.08) if often(0.4) else 0.0,
            lost_reply=rng.uniform(0.005, 0.08) if often(0.5) else 0.0,
            late=rng.uniform(0.01, 0.1) if often(0.5) else 0.0,
            late_max_s=rng.choice((0.2, 1.0, 6.0)),
            bell_lost=rng.uniform(0.05, 0.5) if often(0.35) else 0.0,
            bell_doubled=rng.uniform(0.05, 0.5) if often(0.35) else 0.0,
            bell_stray=rng.uniform(0.1, 1.0) if often(0.3) else 0.0,
            cut_stream=rng.uniform(0.02, 0.3) if often(0.5) else 0.0,
            crash_every_s=rng.uniform(1.0, 8.0) if often(0.6) else 0.0,
            stop_every_s=rng.uniform(1.0, 8.0) if often(0.55) else 0.0,
            restart_every_s=rng.uniform(3.0, 10.0) if often(0.3) else 0.0,
            host_lost=rng.choice((0.0, 0.3, 1.0)),
            blocked_loop=rng.choice((0.0, 0.4)),
            drain=rng.choice((0.0, 0.3)),
        )


class Chance:
    """The throws of the dice of one wire. Each wire has its own, so that one message more does not change all."""

    def __init__(self, seed: int, name: str, weather: Weather) -> None:
        self.random = random.Random(f"{seed} {name}")
        self._weather = weather
        self.clear = False
        """The weather has cleared: nothing gets lost any more."""

    def fate(self) -> Fate:
        rng, weather = self.random, self._weather
        there, back = rng.random() * CALM_S, rng.random() * CALM_S
        thrown, late = rng.random(), rng.random()
        if self.clear:
            return Fate(there, back)
        if late < weather.late:
            # Either way may be the slow one; the sender may have more patience or less.
            slow, patience = rng.random() * weather.late_max_s, rng.choice((0.5, 2.0, 10.0))
            there, back = (there + slow, back) if rng.random() < 0.7 else (there, back + slow)
            return Fate(there, back, patience_s=patience)
        if thrown < weather.lost_request:
            return Fate(there, back, lost_request=True, patience_s=rng.choice((0.01, 0.3, 2.0)))
        if thrown < weather.lost_request + weather.lost_reply:
            return Fate(there, back, lost_reply=True, patience_s=there + rng.choice((0.01, 0.3, 2.0)))
        return Fate(there, back)

    def strikes(self, rate: float) -> bool:
        return self.random.random() < rate and not self.clear

    @property
    def weather(self) -> Weather:
        return self._weather
