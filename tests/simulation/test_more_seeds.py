"""The second thousand of the two thousand seeds, in a file of its own so that another process can run it."""

from __future__ import annotations

import pytest
from tests.simulation.test_seeds import CHUNK, SEEDS, run_chunk


@pytest.mark.parametrize("first", range(SEEDS // 2, SEEDS, CHUNK))
def test_every_promise_holds(first: int) -> None:
    run_chunk(first, first + CHUNK)
