"""A seeded simulation: the real gateway, workers and rescuers in virtual time, on machines and wires that fail.

`simulate(seed)` runs one seed and judges it; `python -m perdure.testing.simulation` runs many and replays one.
"""

from perdure.testing.simulation.referee import Promise, Violation
from perdure.testing.simulation.world import Run, simulate

__all__ = ["Promise", "Run", "Violation", "simulate"]
