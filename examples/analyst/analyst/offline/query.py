"""A question that has been understood, and the SQL that answers it."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

from analyst.offline.lexicon import Agg, Concept


class Anchor(Enum):
    """The table whose rows are counted and measured."""

    FLIGHTS = "flights"
    PLANES = "planes"
    AIRPORTS = "airports"
    WEATHER = "weather"

    @property
    def rows(self) -> str:
        """What its rows are called in a result."""
        return "readings" if self is Anchor.WEATHER else self.value


class Direction(Enum):
    """Which end of a ranking comes first."""

    DESC = "DESC"
    ASC = "ASC"


@dataclass(frozen=True, slots=True)
class Filter:
    """A condition with the words that it stands for."""

    sql: str
    words: str


@dataclass(frozen=True, slots=True)
class Measure:
    """What is worked out for each group; a share also has the conditions that make up its part."""

    agg: Agg
    concept: Concept | None = None
    conditions: tuple[Filter, ...] = ()
    name: str = ""


@dataclass(frozen=True, slots=True)
class Query:
    """One understood question."""

    anchor: Anchor
    measures: tuple[Measure, ...]
    groups: tuple[Concept, ...] = ()
    filters: tuple[Filter, ...] = ()
    rows_min: int = 0
    direction: Direction | None = None
    limit: int | None = None
    lists_rows: bool = False
    skips_null_groups: bool = False
    assumptions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Misunderstood:
    """Why a question could not be read: the words that mean nothing here, or what is missing."""

    reason: str


_JOINS: Final = {
    "airlines": "LEFT JOIN airlines ON airlines.carrier = flights.carrier",
    "planes": "LEFT JOIN planes ON planes.tailnum = flights.tailnum",
    "dest_airport": "LEFT JOIN airports AS dest_airport ON dest_airport.faa = flights.dest",
    "weather": "LEFT JOIN weather ON weather.origin = flights.origin AND weather.time_hour = flights.time_hour",
}

_ROWS: Final = {
    Anchor.FLIGHTS: (
        "flights.date",
        "airlines.name AS airline",
        "flights.flight AS flight_number",
        "flights.origin",
        "flights.dest AS destination",
    ),
    Anchor.PLANES: ("planes.tailnum AS tail_number", "planes.manufacturer", "planes.model", "planes.year"),
    Anchor.AIRPORTS: ("airports.faa", "airports.name"),
    Anchor.WEATHER: ("weather.date", "weather.hour", "weather.origin"),
}

_DECIMALS: Final = 2


def to_sql(query: Query) -> str:
    """The DuckDB statement that answers the query."""
    return _bind(_rows_sql(query) if query.lists_rows else _groups_sql(query), query.anchor)


def diagnosis_sql(query: Query) -> str:
    """A statement that says, for a query that found nothing, how many rows each condition leaves by itself."""
    conditions = [*query.filters, *(c for measure in query.measures for c in measure.conditions)]
    parts = [f"count(*) AS all_{query.anchor.rows}"]
    for condition in conditions:
        name = re.sub(r"\W+", "_", condition.words.lower()).strip("_")[:50]
        parts.append(f'count(*) FILTER (WHERE {condition.sql}) AS "only_{name}"')
    if len(conditions) > 1:
        both = " AND ".join(f"({condition.sql})" for condition in conditions)
        parts.append(f"count(*) FILTER (WHERE {both}) AS all_conditions_together")
    return _bind(_statement(parts, query.anchor), query.anchor)


def with_rows_min(query: Query, rows_min: int) -> Query:
    """The same query, with groups of fewer rows left out."""
    return replace(query, rows_min=max(query.rows_min, rows_min))


def measure_name(measure: Measure, anchor: Anchor) -> str:
    """The name of the measure's result column, its unit last."""
    if measure.name:
        return measure.name
    concept = measure.concept
    unit = f"_{concept.unit}" if concept is not None and concept.unit else ""
    key = concept.key if concept is not None else anchor.rows
    match measure.agg:
        case Agg.COUNT:
            return anchor.rows
        case Agg.DISTINCT:
            return concept.plural if concept is not None else anchor.rows
        case Agg.SHARE:
            return "share_percent"
        case Agg.SHARE_OF_ALL:
            return "percent_of_all"
        case Agg.PER:
            return f"{anchor.rows}_per_{'day' if key == 'date' else key}"
        case Agg.SUM:
            return f"total_{key}{unit}"
        case Agg.AVG:
            return f"avg_{key}{unit}"
        case _:
            return f"{measure.agg.name.lower()}_{key}{unit}"


def _groups_sql(query: Query) -> str:
    shown = [f"{sql} AS {name}" for concept in query.groups for sql, name in _shows(concept)]
    keys = [sql for concept in query.groups for sql, _ in _shows(concept) if not sql.startswith("any_value(")]
    keys += [c.order for c in query.groups if c.order and c.order not in keys and not c.order.startswith("min(")]
    names = [measure_name(measure, query.anchor) for measure in query.measures]
    measured = [f"{_measure_sql(m)} AS {name}" for m, name in zip(query.measures, names, strict=True)]
    counted = _counted(query.measures[0])
    if query.anchor.rows not in names and _rests_on_rows(query):
        measured.append(f"{counted} AS {query.anchor.rows}")
    filters = [f.sql for f in query.filters]
    if query.skips_null_groups:
        filters += [f"{_group_sql(concept)} IS NOT NULL" for concept in query.groups]
    lines = [_statement([*shown, *measured], query.anchor, filters)]
    if keys:
        lines.append(f"GROUP BY {', '.join(keys)}")
    if query.rows_min and keys:
        lines.append(f"HAVING {counted} >= {query.rows_min}")
    lines += _order_lines(query, names[0])
    return "\n".join(lines)


def _order_lines(query: Query, measured: str) -> list[str]:
    if not query.groups:
        return []
    ties = [name for concept in query.groups for sql, name in _shows(concept) if not sql.startswith("any_value(")]
    if query.direction is None and any(c.order or c.bucket for c in query.groups):
        orders = [c.order or _shows(c)[0][1] for c in query.groups]
    else:
        direction = query.direction or Direction.DESC
        orders = [f"{measured} {direction.value} NULLS LAST", *ties]
    lines = [f"ORDER BY {', '.join(orders)}"]
    if query.limit is not None:
        lines.append(f"LIMIT {query.limit}")
    return lines


def _rows_sql(query: Query) -> str:
    concepts = [measure.concept for measure in query.measures if measure.concept is not None]
    columns = [*_ROWS[query.anchor]]
    for concept in concepts:
        unit = f"_{concept.unit}" if concept.unit else ""
        columns.append(f"round({concept.sql}, {_DECIMALS}) AS {concept.key}{unit}")
    first = concepts[0]
    filters = [*(f.sql for f in query.filters), f"{first.sql} IS NOT NULL"]
    direction = (query.direction or Direction.DESC).value
    orders = [f"{first.sql} {direction}", *(column.split(" AS ")[0] for column in _ROWS[query.anchor])]
    lines = [_statement(columns, query.anchor, filters), f"ORDER BY {', '.join(orders)}", f"LIMIT {query.limit or 10}"]
    return "\n".join(lines)


def _statement(columns: list[str], anchor: Anchor, filters: list[str] | None = None) -> str:
    lines = ["SELECT " + ",\n       ".join(columns), f"FROM {anchor.value}", "{joins}"]
    if filters:
        lines.append("WHERE " + "\n  AND ".join(f"({sql})" if " OR " in sql else sql for sql in filters))
    return "\n".join(lines)


def _bind(sql: str, anchor: Anchor) -> str:
    """Fill in the table that is asked, and add the joins that the text turns out to need."""
    airports = "airports" if anchor is Anchor.AIRPORTS else "dest_airport"
    tail = "planes" if anchor is Anchor.PLANES else "flights"
    sql = sql.replace("{t}", anchor.value).replace("{a}", airports).replace("{p}", tail)
    joins = [join for name, join in _JOINS.items() if anchor is Anchor.FLIGHTS and f"{name}." in sql]
    return "\n".join(line for line in sql.replace("{joins}", "\n".join(joins)).splitlines() if line.strip())


def _shows(concept: Concept) -> tuple[tuple[str, str], ...]:
    return concept.shows or ((_group_sql(concept), f"{concept.key}{'_' + concept.unit if concept.unit else ''}"),)


def _group_sql(concept: Concept) -> str:
    if concept.bucket and concept.bucket != 1:
        width = f"{concept.bucket:g}"
        return f"round(floor(({concept.sql}) / {width}) * {width}, {_DECIMALS})"
    return concept.sql


def _measure_sql(measure: Measure) -> str:
    column = measure.concept.sql if measure.concept is not None else "*"
    part = " AND ".join(f"({condition.sql})" for condition in measure.conditions)
    match measure.agg:
        case Agg.COUNT:
            return f"count(*) FILTER (WHERE {part})" if part else "count(*)"
        case Agg.DISTINCT:
            return f"count(DISTINCT {column})"
        case Agg.SHARE:
            return f"round(100.0 * count(*) FILTER (WHERE {part}) / count(*), {_DECIMALS})"
        case Agg.SHARE_OF_ALL:
            return f"round(100.0 * count(*) / sum(count(*)) OVER (), {_DECIMALS})"
        case Agg.PER:
            return f"round(1.0 * count(*) / count(DISTINCT {column}), {_DECIMALS})"
        case Agg.SUM:
            return f"round(sum({column}), {_DECIMALS})"
        case Agg.MIN | Agg.MAX:
            return f"round({measure.agg.name.lower()}({column}), {_DECIMALS})"
        case Agg.AVG | Agg.MEDIAN | Agg.STDDEV:
            return f"round({measure.agg.name.lower()}({column}), {_DECIMALS})"


def _rests_on_rows(query: Query) -> bool:
    return any(m.agg in (Agg.AVG, Agg.MEDIAN, Agg.STDDEV, Agg.SHARE) for m in query.measures)


def _counted(measure: Measure) -> str:
    averaged = measure.agg in (Agg.AVG, Agg.MEDIAN, Agg.STDDEV, Agg.MIN, Agg.MAX)
    return f"count({measure.concept.sql})" if averaged and measure.concept is not None else "count(*)"
