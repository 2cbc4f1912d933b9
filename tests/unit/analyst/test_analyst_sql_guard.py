"""Untrusted SQL: what may run runs whole, and nothing else runs at all."""

from __future__ import annotations

import time
from pathlib import Path

import duckdb
import pytest
from analyst.dataset import READ_CONFIG
from analyst.sql_guard import Limits, QueryRefused, QueryResult, check, run_select

ALLOWED = [
    "SELECT count(*) FROM flights",
    "select 1;",
    "/* a comment; with a semicolon */ SELECT 1 -- and another; one",
    "WITH a AS (SELECT carrier, count(*) AS n FROM flights GROUP BY 1) SELECT * FROM a JOIN airlines USING (carrier)",
    "FROM flights SELECT month, avg(dep_delay) GROUP BY ALL",
    "SELECT CASE WHEN hour < 12 THEN 'am' ELSE 'pm' END AS half, count(*) FILTER (WHERE dep_delay > 60) "
    "FROM main.flights WHERE date BETWEEN '2013-01-01' AND DATE '2013-12-31' AND carrier LIKE 'U%' GROUP BY half",
    "SELECT *, row_number() OVER (PARTITION BY origin ORDER BY dep_delay DESC) AS place FROM flights QUALIFY place = 1",
    "SELECT carrier FROM flights UNION SELECT carrier FROM airlines",
    "SELECT * FROM flights WHERE distance > (SELECT avg(distance) FROM flights) LIMIT 3",
    "SELECT * FROM range(3)",
    "WITH RECURSIVE r AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM r WHERE i < 5) SELECT sum(i) FROM r",
    "VALUES (1), (2)",
]

REFUSED = [
    # Statements that write, load, set or look elsewhere.
    "COPY flights TO '/tmp/stolen.csv'",
    "COPY (SELECT 1) TO '/tmp/stolen.csv'",
    "EXPORT DATABASE '/tmp/stolen'",
    "ATTACH '/tmp/other.duckdb'",
    "DETACH memory",
    "PRAGMA database_list",
    "INSTALL httpfs",
    "LOAD httpfs",
    "SET lock_configuration = false",
    "RESET threads",
    "INSERT INTO flights SELECT * FROM flights",
    "UPDATE flights SET dep_delay = 0",
    "DELETE FROM flights",
    "DROP TABLE flights",
    "CREATE TABLE t AS SELECT 1",
    "CREATE TEMP MACRO f() AS 1",
    "ALTER TABLE flights ADD COLUMN x INT",
    "CALL pragma_version()",
    "EXPLAIN ANALYZE SELECT 1",
    "VACUUM",
    "CHECKPOINT",
    "BEGIN TRANSACTION",
    "PREPARE p AS SELECT 1",
    "USE memory",
    # More or less than one statement.
    "SELECT 1; SELECT 2",
    "SELECT 1; DROP TABLE flights",
    "SELECT 1 /* ; */; /* SELECT */ DROP TABLE flights --",
    "",
    "-- nothing",
    "selec 1",
    # Writing inside of reading.
    "WITH a AS (DELETE FROM flights RETURNING *) SELECT * FROM a",
    "WITH a AS (INSERT INTO flights SELECT * FROM flights RETURNING *) SELECT * FROM a",
    "WITH a AS (UPDATE flights SET dep_delay = 0 RETURNING *) SELECT * FROM a",
    # Files and the network.
    "SELECT * FROM read_csv('/etc/passwd')",
    "SELECT * FROM read_csv_auto('/etc/passwd')",
    "SELECT * FROM READ_TEXT('/etc/passwd')",
    "SELECT * FROM read_blob('/etc/passwd')",
    "SELECT * FROM read_parquet('https://example.com/x.parquet')",
    "SELECT * FROM 'flights.csv'",
    "FROM '/etc/passwd'",
    'SELECT * FROM "https://example.com/x.csv"',
    "SELECT * FROM glob('/etc/*')",
    "SELECT * FROM sniff_csv('/etc/passwd')",
    "SELECT * FROM flights WHERE EXISTS (FROM read_text('/etc/passwd'))",
    "SELECT (SELECT content FROM read_text('/etc/passwd'))",
    "WITH a AS (SELECT * FROM glob('*')) SELECT * FROM a",
    "SELECT 1 ORDER BY (SELECT count(*) FROM glob('*'))",
    "SELECT * FROM flights LIMIT (SELECT count(*) FROM glob('*'))",
    "SELECT count(*) FILTER (WHERE getenv('HOME') = '') FROM flights",
    # The environment, the settings, the catalogue, text run as SQL.
    "SELECT getenv('HOME')",
    "SELECT system.main.getenv('HOME')",
    "SELECT current_setting('threads')",
    "SELECT * FROM duckdb_settings()",
    "SELECT * FROM duckdb_secrets()",
    "SELECT * FROM pragma_table_info('flights')",
    "SELECT * FROM information_schema.tables",
    "SELECT * FROM duckdb_tables",
    "SELECT * FROM sqlite_master",
    "SELECT * FROM query('SELECT 1')",
    "SELECT * FROM query_table('flights')",
    "DESCRIBE flights",
    "SHOW TABLES",
    "SUMMARIZE flights",
    "SELECT nextval('s')",
    "SELECT json_execute_serialized_sql('{}')",
    # Strings of any length.
    "SELECT repeat('x', 1000000000)",
    "SELECT lpad('x', 1000000000, 'x')",
]


@pytest.mark.parametrize("sql", ALLOWED)
def test_what_an_analyst_needs_runs(sql: str, database: Path) -> None:
    """Joins, windows, common table expressions and comments are no offence."""
    assert isinstance(run_select(database, sql, Limits(rows_max=5)), QueryResult)


@pytest.mark.parametrize("sql", REFUSED)
def test_whatever_else_is_refused_with_a_reason(sql: str, database: Path) -> None:
    """It is refused by the look at its text, before any of it runs, and the reason can be acted on."""
    refusal = check(sql, Limits())
    assert isinstance(refusal, QueryRefused)
    assert len(refusal.reason) > 20
    assert run_select(database, sql) == refusal


def test_the_second_wall_stands_without_the_first(database: Path) -> None:
    """Were a statement to slip past the look at its text, the connection itself can neither write nor reach out."""
    with duckdb.connect(str(database), read_only=True, config=READ_CONFIG) as connection:
        for sql in (
            "SELECT * FROM read_text('/etc/passwd')",
            "COPY flights TO '/tmp/stolen.csv'",
            "DELETE FROM flights",
            "CREATE TABLE t AS SELECT 1",
            "ATTACH '/tmp/other.duckdb'",
            "INSTALL httpfs",
            "SET enable_external_access = true",
            "SET memory_limit = '100GB'",
        ):
            with pytest.raises(duckdb.Error):
                connection.execute(sql)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT count(*) FROM flights a, flights b, flights c",
        "SELECT count(*) FROM range(1000000000000)",
        "WITH RECURSIVE r AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM r) SELECT count(*) FROM r",
    ],
)
def test_a_query_without_end_is_stopped(sql: str, database: Path) -> None:
    """The time limit holds for a cross join, for a huge range and for endless recursion."""
    started = time.monotonic()
    refusal = run_select(database, sql, Limits(wall_time_s=0.3))
    assert isinstance(refusal, QueryRefused)
    assert "stopped after 0.3 s" in refusal.reason
    assert time.monotonic() - started < 3


def test_memory_is_bounded(database: Path) -> None:
    """A query that gathers everything is refused, and does not take the process with it."""
    refusal = run_select(database, "SELECT list(a.tailnum || b.tailnum) FROM flights a, flights b")
    assert isinstance(refusal, QueryRefused)


def test_rows_and_cells_are_bounded(database: Path) -> None:
    """A long result is cut at the limit and says so; a long cell is cut as well."""
    result = run_select(database, "SELECT * FROM flights", Limits(rows_max=7))
    assert isinstance(result, QueryResult)
    assert (len(result.rows), result.truncated) == (7, True)
    result = run_select(database, "SELECT string_agg(tailnum, ',') FROM flights", Limits(cell_chars_max=100))
    assert isinstance(result, QueryResult)
    assert len(str(result.rows[0][0])) == 101
    refusal = run_select(database, f"SELECT '{'x' * 30_000}'")
    assert isinstance(refusal, QueryRefused)


def test_cells_are_plain_values(database: Path) -> None:
    """Dates become ISO text, decimals floats, and what JSON cannot say becomes NULL."""
    sql = "SELECT DATE '2013-01-02', 1.5::DECIMAL(4, 1), 'nan'::DOUBLE, 'inf'::DOUBLE, NULL, true, [1, 2], 3"
    result = run_select(database, sql)
    assert isinstance(result, QueryResult)
    assert result.rows == (("2013-01-02", 1.5, None, None, None, True, "[1, 2]", 3),)


def test_a_mistake_in_the_sql_comes_back_as_words(database: Path) -> None:
    """The writer of the query is told what DuckDB makes of it."""
    refusal = run_select(database, "SELECT departure_delay FROM flights")
    assert isinstance(refusal, QueryRefused)
    assert "departure_delay" in refusal.reason
