"""Runs SQL that nobody trusts: one reading statement, over the known tables, within bounds of time, rows and memory.

There are two walls. The statement is taken apart by DuckDB's own parser and refused unless everything in it is on a
list of what is allowed. What passes then runs on a read-only connection that can open no other file, no network
address and no extension, and whose settings are locked.
"""

from __future__ import annotations

import datetime
import decimal
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final, TypeAlias

import duckdb

from analyst.dataset import READ_CONFIG, TABLES

Cell: TypeAlias = str | int | float | bool | None
_Json: TypeAlias = "dict[str, _Json] | list[_Json] | str | int | float | bool | None"


@dataclass(frozen=True, slots=True)
class Limits:
    """What one query may cost. `sql_chars_max` bounds the parser's work, the others that of the run."""

    rows_max: int = 1000
    wall_time_s: float = 10.0
    sql_chars_max: int = 20_000
    cell_chars_max: int = 2_000


@dataclass(frozen=True, slots=True)
class QueryResult:
    """A whole result, in plain values; `truncated` when there were more rows than the limit."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    truncated: bool
    elapsed_s: float


@dataclass(frozen=True, slots=True)
class QueryRefused:
    """Why there is no result, in words that let the writer of the query mend it."""

    reason: str


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_TABLE_NAMES: Final = frozenset(table.name for table in TABLES)

_NODES: Final = frozenset({"SELECT_NODE", "SET_OPERATION_NODE", "CTE_NODE", "RECURSIVE_CTE_NODE"})

_SOURCES: Final = frozenset(
    {"BASE_TABLE", "SUBQUERY", "JOIN", "TABLE_FUNCTION", "EMPTY", "EXPRESSION_LIST", "PIVOT", "COLUMN_DATA"}
)

_TABLE_FUNCTIONS: Final = frozenset({"range", "generate_series", "unnest"})

# Operators arrive as functions too. Whatever reads a file, the environment, the settings or the catalogue, runs text
# as SQL, or changes a sequence is absent here, and so is what a later DuckDB may bring. `repeat` and padding are
# absent too: a string could be of any length that a number can say.
_FUNCTIONS: Final = _words(
    """
    + - * / // % ** ^ & | || << >> ~ ! = <> != < <= > >= ~~ !~~ ~~* !~~* ~~~ @ ^@ -> ->> array_extract list_extract
    abs acos add asin atan atan2 cbrt ceil ceiling cos cot degrees divide even exp fdiv floor fmod gamma gcd greatest
    isfinite isinf isnan lcm least lgamma ln log log10 log2 mod multiply nextafter pi pow power radians round
    round_even sign signbit sin sqrt subtract tan trunc width_bucket equi_width_bins
    avg mean count count_star count_if countif sum fsum sumkahan kahan_sum favg min max median mode mad quantile
    quantile_cont quantile_disc approx_count_distinct approx_quantile approx_top_k arg_max arg_min argmax argmin max_by
    min_by any_value arbitrary first last bool_and bool_or bit_and bit_or bit_xor product geomean geometric_mean
    stddev stddev_pop stddev_samp variance var_pop var_samp corr covar_pop covar_samp regr_avgx regr_avgy regr_count
    regr_intercept regr_r2 regr_slope regr_sxx regr_sxy regr_syy skewness kurtosis kurtosis_pop entropy histogram
    string_agg group_concat listagg list array_agg grouping grouping_id
    row_number rank dense_rank percent_rank cume_dist ntile lag lead first_value last_value nth_value
    century date_add date_diff datediff date_part datepart date_sub datesub date_trunc datetrunc day dayname
    dayofmonth dayofweek dayofyear decade epoch epoch_ms era extract hour isodow isoyear julian last_day make_date
    make_time make_timestamp microsecond millennium millisecond minute month monthname quarter second strftime
    strptime time_bucket timezone to_days to_hours to_minutes to_months to_seconds to_weeks to_years try_strptime
    week weekday weekofyear year yearweek age
    array_length array_to_string bar char_length character_length chr concat concat_ws contains ends_with format
    formatreadabledecimalsize greatest hash ilike_escape initcap instr jaccard jaro_similarity jaro_winkler_similarity
    lcase left len length levenshtein like_escape list_aggregate list_avg list_contains list_count list_distinct
    list_max list_min list_sort list_sum list_unique list_value lower ltrim md5 not_ilike_escape not_like_escape
    position prefix printf regexp_extract regexp_extract_all regexp_full_match regexp_matches regexp_replace replace
    reverse right rtrim split split_part starts_with str_split string_split strip_accents strlen strpos struct_extract
    struct_pack row substr substring suffix trim ucase unicode upper unnest
    coalesce constant_or_null error ifnull if nullif typeof is_distinct_from is_not_distinct_from nvl
    not between in"""
)


def run_select(path: Path, sql: str, limits: Limits | None = None) -> QueryResult | QueryRefused:
    """Run one untrusted `SELECT` or `WITH` against the database at `path` and give its rows, or why not.

    Blocks for up to `limits.wall_time_s`, so call it in a thread. Nothing that the query does raises; only a database
    that cannot be opened does. Dates and times come back as ISO strings, decimals as floats.
    """
    bounds = limits or Limits()
    if (refusal := check(sql, bounds)) is not None:
        return refusal
    started = time.monotonic()
    with duckdb.connect(str(path), read_only=True, config=READ_CONFIG) as connection:
        watch = _Watch(connection, bounds.wall_time_s)
        try:
            with watch:
                cursor = connection.execute(sql)
                columns = tuple(str(column[0]) for column in cursor.description or ())
                fetched = cursor.fetchmany(bounds.rows_max + 1)
        except duckdb.InterruptException:
            return QueryRefused(
                f"The query was stopped after {bounds.wall_time_s:g} s. Make it cheaper: filter or group earlier, and "
                "give every join its key."
            )
        except duckdb.OutOfMemoryException:
            return QueryRefused("The query needs more memory than it may have. Filter or group earlier.")
        except duckdb.Error as error:
            return QueryRefused(f"DuckDB refuses the query: {_first_lines(str(error))}")
    elapsed_s = time.monotonic() - started
    rows = tuple(tuple(_plain(cell, bounds.cell_chars_max) for cell in row) for row in fetched[: bounds.rows_max])
    return QueryResult(columns, rows, len(fetched) > bounds.rows_max, elapsed_s)


def check(sql: str, limits: Limits) -> QueryRefused | None:
    """Why this text may not run, or None; reads the text alone and opens no database file."""
    if len(sql) > limits.sql_chars_max:
        return QueryRefused(f"The query is {len(sql)} characters long; at most {limits.sql_chars_max} are read.")
    try:
        statements = duckdb.extract_statements(sql)
    except duckdb.Error as error:
        return QueryRefused(f"This is not SQL that DuckDB can read: {_first_lines(str(error))}")
    if len(statements) != 1:
        return QueryRefused(f"Exactly one statement is allowed; here are {len(statements)}.")
    kind = statements[0].type
    if kind != duckdb.StatementType.SELECT:
        return QueryRefused(f"Only SELECT and WITH are allowed, not {str(kind).rpartition('.')[2]}.")
    with _parser().cursor() as parser:
        text = parser.execute("SELECT json_serialize_sql(?)", [sql]).fetchall()[0][0]
    tree: _Json = json.loads(text)
    if not isinstance(tree, dict) or tree.get("error"):
        return QueryRefused("Only SELECT and WITH are allowed, and this statement is something else.")
    return next(_faults(tree, _cte_names(tree)), None)


@lru_cache(maxsize=1)
def _parser() -> duckdb.DuckDBPyConnection:
    """An empty database that only takes statements apart; opening one costs more than a hundred looks."""
    return duckdb.connect(":memory:", config={"threads": 1})


def _faults(tree: _Json, named: frozenset[str]) -> Iterator[QueryRefused]:
    if isinstance(tree, list):
        for item in tree:
            yield from _faults(item, named)
        return
    if not isinstance(tree, dict):
        return
    kind = tree.get("type")
    if isinstance(kind, str):
        if kind not in _NODES and (kind.endswith("_NODE") or "cte_map" in tree):
            yield QueryRefused("Only SELECT and WITH are allowed; this statement hides one that changes data.")
        elif "sample" in tree and "alias" in tree and kind not in _SOURCES:
            yield QueryRefused(f"Reading from {kind.lower()} is not allowed; read from {_known()}.")
    if kind == "BASE_TABLE":
        yield from _table_faults(tree, named)
    if kind == "TABLE_FUNCTION":
        yield from _table_function_faults(tree)
    elif "function_name" in tree and kind != "BASE_TABLE":
        name = str(tree["function_name"]).lower()
        if name not in _FUNCTIONS and name not in _TABLE_FUNCTIONS:
            yield QueryRefused(f"The function {name} is not allowed here.")
    for key, value in tree.items():
        # The function of a table function has been looked at above, by the shorter list.
        yield from _faults(_arguments(value) if kind == "TABLE_FUNCTION" and key == "function" else value, named)


def _table_faults(tree: dict[str, _Json], named: frozenset[str]) -> Iterator[QueryRefused]:
    name = str(tree.get("table_name", ""))
    schema = str(tree.get("schema_name") or "")
    catalog = str(tree.get("catalog_name") or "")
    if catalog or schema not in ("", "main"):
        yield QueryRefused(f"There is no table {catalog or schema}.{name} here; read from {_known()}.")
    elif name.lower() not in _TABLE_NAMES and (schema or name.lower() not in named):
        yield QueryRefused(f"There is no table {name!r} here; read from {_known()}.")


def _table_function_faults(tree: dict[str, _Json]) -> Iterator[QueryRefused]:
    function = tree.get("function")
    name = str(function.get("function_name", "")).lower() if isinstance(function, dict) else ""
    if name not in _TABLE_FUNCTIONS:
        yield QueryRefused(f"Reading from the function {name or '?'} is not allowed; read from {_known()}.")


def _arguments(function: _Json) -> _Json:
    if not isinstance(function, dict):
        return function
    return {key: value for key, value in function.items() if key not in ("function_name", "type")}


def _cte_names(tree: _Json) -> frozenset[str]:
    """The names that the statement's own WITH clauses give; a name used outside its clause fails in DuckDB itself."""
    if isinstance(tree, list):
        return frozenset().union(*(_cte_names(item) for item in tree))
    if not isinstance(tree, dict):
        return frozenset()
    names = frozenset().union(*(_cte_names(value) for value in tree.values()))
    cte_map = tree.get("cte_map")
    entries = cte_map.get("map") if isinstance(cte_map, dict) else None
    if isinstance(entries, list):
        names |= {str(entry["key"]).lower() for entry in entries if isinstance(entry, dict) and "key" in entry}
    return names


class _Watch:
    """Interrupts the connection's query when its time is over; leaving the block calls the watch off."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, wall_time_s: float) -> None:
        self._timer = threading.Timer(wall_time_s, connection.interrupt)
        self._timer.daemon = True

    def __enter__(self) -> None:
        self._timer.start()

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        # A timer that fires late must not meet a connection that is closed or used again.
        self._timer.join()


def _plain(value: object, chars_max: int) -> Cell:
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        # JSON has no word for these.
        return value if value == value and value not in (float("inf"), float("-inf")) else None
    if isinstance(value, decimal.Decimal):
        return float(value)
    if isinstance(value, (datetime.date, datetime.datetime, datetime.time)):
        return value.isoformat()
    text = str(value)
    return text if len(text) <= chars_max else text[:chars_max] + "…"


def _first_lines(message: str) -> str:
    lines = [line.strip() for line in message.splitlines() if line.strip() and not set(line.strip()) <= {"^", "~"}]
    return " ".join(lines[:3])


def _known() -> str:
    return ", ".join(sorted(_TABLE_NAMES))
