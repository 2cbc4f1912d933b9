"""What a simulated task does: its steps, drawn from the seed and sent as the task's input."""

from __future__ import annotations

import random
from typing import Final

import msgspec

STEPS_MAX: Final = 5
GRAPH: Final = "scripted"


class Step(msgspec.Struct, frozen=True, omit_defaults=True):
    """One step. It fails, or kills its worker's process, in the attempts up to the number that is given."""

    lasts_s: float
    says: int = 0
    asks: int = 0
    fails_until: int = 0
    kills_until: int = 0
    makes_file: bool = False


class Script(msgspec.Struct, frozen=True):
    """The steps of a task, run as the nodes n0, n1, … of a graph, and the nodes before which it must stop."""

    steps: list[Step]
    breakpoints: list[str] = []

    @classmethod
    def of(cls, rng: random.Random) -> Script:
        steps = []
        for _ in range(rng.randint(1, STEPS_MAX)):
            odd = rng.random()
            steps.append(
                Step(
                    lasts_s=round(rng.choice((0.02, 0.3, 1.5)) * (0.5 + rng.random()), 3),
                    says=rng.randint(0, 3),
                    asks=rng.choice((1, 1, 2)) if odd < 0.12 else 0,
                    fails_until=rng.choice((1, 2)) if 0.12 <= odd < 0.18 else 0,
                    kills_until=rng.choice((1, 1, 9)) if 0.18 <= odd < 0.21 else 0,
                    makes_file=odd > 0.85,
                )
            )
        guarded = [f"n{number}" for number in range(1, len(steps)) if rng.random() < 0.12]
        return cls(steps, guarded)

    @classmethod
    def of_input(cls, raw: msgspec.Raw | None) -> Script:
        assert raw is not None
        return msgspec.json.decode(bytes(raw), type=_Input).script

    @staticmethod
    def node(step: int) -> str:
        return f"n{step}"

    def as_input(self) -> bytes:
        return msgspec.json.encode(_Input(self))


class _Input(msgspec.Struct):
    """The state that a task begins with: another task of the thread may have left its own `done`."""

    script: Script
    done: int = 0
