"""What the analyst's tests share: its package on the path, and one freshly built data set."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[3] / "examples" / "analyst"))


@pytest.fixture(scope="session", autouse=True)
def _settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A data folder of the tests' own, no pauses between tokens, and no model but the offline one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PERDURE_DEMO_DATA", str(tmp_path_factory.mktemp("data")))
        patch.setenv("PERDURE_OFFLINE_PACE_S", "0")
        patch.delenv("PERDURE_MODEL", raising=False)
        yield


@pytest.fixture(scope="session")
def database(_settings: None) -> Path:
    """The built database file."""
    from analyst.dataset import ensure_database

    return ensure_database()
