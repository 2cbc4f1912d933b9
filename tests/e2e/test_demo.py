"""The demo, whole: it must prove what it shows, and say so with its exit code."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

DEMO = (sys.executable, "-m", "perdure", "demo")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data set is built once for all demos of this file."""
    return tmp_path_factory.mktemp("flights")


def run(folder: Path, data: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PERDURE_")}
    return subprocess.run(
        [*DEMO, *arguments],
        cwd=folder,
        env={**kept, "PERDURE_DEMO_DATA": str(data), "COLUMNS": "160", **variables},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )


def test_a_worker_dies_in_mid_step_and_everything_holds(tmp_path: Path, data: Path) -> None:
    # A store that the variables point at must not be touched: nobody listens there, so using it would fail.
    done = run(tmp_path, data, PERDURE_STORE="valkey://127.0.0.1:9", PERDURE_TIER="gpu")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Nothing to download" in done.stdout
    assert "it is no language model" in done.stdout
    assert re.search(r"SIGKILL to worker w-\w+, pid \d+, in the middle of a step of Q[1-4]", done.stdout)
    assert re.search(r"\[RECOVERY\].*rehydrated \d+ channels", done.stdout)
    assert done.stdout.count("✔ │") == 6
    assert "✘" not in done.stdout
    assert re.search(r"after \d+ ms on the standby", done.stdout)
    tables = sorted((tmp_path / ".perdure/demo/artifacts").glob("Q?-*-answer.csv"))
    assert len(tables) == 4
    assert all(len(table.read_text().splitlines()) > 1 for table in tables)
    assert done.stdout.count("curl ") == 3


def test_ones_own_question_is_asked_and_a_picture_is_drawn(tmp_path: Path, data: Path) -> None:
    picture = tmp_path / "demo.svg"
    done = run(tmp_path, data, "--question", "How many flights left LGA in May?", "--picture", str(picture))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Q1 How many flights left LGA in May?" in done.stdout
    assert picture.read_text().startswith("<svg")
