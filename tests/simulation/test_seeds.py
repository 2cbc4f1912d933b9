"""Two thousand seeds: under every mixture of faults that they draw, every promise holds."""

from __future__ import annotations

import pytest

from perdure.testing.simulation import simulate

SEEDS = 2_000
CHUNK = 100


def run_chunk(first: int, last: int) -> None:
    """Fails with the seed, what it broke, and how to replay it."""
    for seed in range(first, last):
        run = simulate(seed)
        assert run.held, f"{run.broken[0]}; replay: python -m perdure.testing.simulation --seed {seed}"


@pytest.mark.parametrize("first", range(0, SEEDS // 2, CHUNK))
def test_every_promise_holds(first: int) -> None:
    """The first thousand seeds; `test_more_seeds.py` has the others, so that two processes can share them."""
    run_chunk(first, first + CHUNK)
