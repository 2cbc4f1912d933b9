"""What the rules say in each role, from nothing but the messages that every model gets."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from langchain_core.messages import BaseMessage

from analyst.offline.query import Measure, Misunderstood, Query, diagnosis_sql, measure_name, to_sql, with_rows_min
from analyst.offline.reading import read_question
from analyst.offline.schema import Schema, read_schema
from analyst.prompts import CANNOT, Role, Verdict, sections

NOT_A_MODEL: Final = "Worked out by fixed rules, not by a language model."
ROWS_MIN: Final = 30

EXAMPLES: Final = (
    "Which airline had the worst average departure delay from JFK in July?",
    "Compare the share of cancelled flights at JFK, LGA and EWR",
    "What is the average arrival delay per hour of the day for flights longer than 1000 miles?",
)

_CAN_DO: Final = (
    "I can count, average, sum, rank and compare flights that left New York in 2013 by airline, airport, destination, "
    "route, aircraft, maker, weather or time, with filters on any of these."
)
_EACH_ALONE: Final = "each condition by itself"
_TAKEN_TO_MEAN: Final = "Taken to mean: "
_DROP_NULLS: Final = "Leave out rows where it is NULL."
_TAKE_BACK: Final = "Take the minimum away again."

Cells: TypeAlias = list[list[str]]


@dataclass(frozen=True, slots=True)
class Reply:
    """One turn of the model: what it thinks, what it says, and the SQL that it hands to the tool."""

    reasoning: str = ""
    text: str = ""
    sql: str = ""


@dataclass(frozen=True, slots=True)
class _Table:
    columns: list[str]
    rows: Cells
    count: int

    def column(self, name: str) -> list[str]:
        at = self.columns.index(name)
        return [row[at] for row in self.rows]


@dataclass(frozen=True, slots=True)
class _Prompt:
    """The prompt, taken apart."""

    schema: Schema
    question: str
    plan: str
    sql: str
    result: str
    critique: str


def reply(messages: list[BaseMessage]) -> Reply:
    """What the rules answer to these messages; the role and all facts are read from them."""
    system, human = str(messages[0].text), str(messages[-1].text)
    parts = sections(human)
    asked = _Prompt(
        read_schema(sections(system).get("Schema", "")),
        parts.get("Question", human),
        parts.get("Plan", ""),
        parts.get("Query", ""),
        parts.get("Result", ""),
        parts.get("Critique so far", ""),
    )
    for role, speak in _SPEAKERS.items():
        if system.startswith(f"You are the {role} "):
            return speak(asked)
    return Reply(text=f"I answer by rules and know only the parts of this analyst. {NOT_A_MODEL}")


# The planner.


def _plan(asked: _Prompt) -> Reply:
    query = read_question(asked.question, asked.schema)
    if isinstance(query, Misunderstood):
        return Reply(
            reasoning=f"{NOT_A_MODEL} I look for words that name a column, a value or a measure. {query.reason}",
            text=f"{CANNOT} {query.reason} {_CAN_DO} For example:\n" + "\n".join(f"- {e}" for e in EXAMPLES),
        )
    reasoning = [NOT_A_MODEL, f"The rows to look at are those of {query.anchor.value}."]
    conditions = [
        f"“{f.words}” becomes {f.sql.format(t=query.anchor.value, a='airports', p='planes')}" for f in query.filters
    ]
    reasoning += [f"{'; '.join(conditions)}." if conditions else "Nothing is filtered."]
    if _EACH_ALONE in asked.critique:
        return Reply(
            reasoning=" ".join(
                [*reasoning, "The last query found nothing, so I want to know which condition is at fault."]
            ),
            text=f"Count the {query.anchor.rows}, then how many fulfil {_EACH_ALONE}, then how many fulfil all.",
        )
    steps = [_filter_words(query), f"Work out {_join([_measure_words(m, query) for m in query.measures])}."]
    if query.groups:
        steps.append(f"Do so for each {_join([concept.key.replace('_', ' ') for concept in query.groups])}.")
    if query.direction is not None:
        end = "highest" if query.direction.value == "DESC" else "lowest"
        steps.append(f"Put the {end} first{f' and keep {query.limit}' if query.limit else ''}.")
    if query.assumptions:
        steps.append(_TAKEN_TO_MEAN + "; ".join(query.assumptions) + ".")
    return Reply(reasoning=" ".join(reasoning), text=" ".join(step for step in steps if step))


def _filter_words(query: Query) -> str:
    if not query.filters:
        return f"Take all {query.anchor.rows}."
    return f"Take the {query.anchor.rows} that fulfil: {', '.join(f.words for f in query.filters)}."


def _measure_words(measure: Measure, query: Query) -> str:
    name = _spoken(measure_name(measure, query.anchor))
    return f"the {name}" if not measure.conditions else f"the {name} ({_join([c.words for c in measure.conditions])})"


# The SQL writer.


def _write_sql(asked: _Prompt) -> Reply:
    query = read_question(asked.question, asked.schema)
    if isinstance(query, Misunderstood):
        return Reply(text=f"There is no query to write. {query.reason}")
    if _EACH_ALONE in asked.plan:
        return Reply("I count what each condition leaves by itself.", sql=diagnosis_sql(query))
    thoughts = [f"The plan needs one SELECT over {query.anchor.value}."]
    least = re.findall(r"at least (\d+) rows", asked.critique)
    if least and _TAKE_BACK not in asked.critique:
        query = with_rows_min(query, int(least[-1]))
        thoughts.append(
            f"The critic wants at least {least[-1]} rows behind each group, so HAVING leaves out smaller ones."
        )
    if _DROP_NULLS in asked.critique:
        query = replace(query, skips_null_groups=True)
        thoughts.append("The critic wants no group without a name, so rows without one are left out.")
    return Reply(" ".join(thoughts), sql=to_sql(query))


# The critic.


def _criticise(asked: _Prompt) -> Reply:
    if asked.result.startswith("ERROR:"):
        return _verdict(Verdict.REVISE, f"There is no result: {asked.result.removeprefix('ERROR:').strip()}")
    table = _table(asked.result)
    if table.columns and table.columns[0].startswith("all_"):
        return _verdict(Verdict.ACCEPT, "The counts show which condition nothing fulfils, and that is the answer.")
    filtered = " WHERE " in asked.sql.replace("\n", " ")
    if not table.rows or _is_void(table):
        if "HAVING" in asked.sql and _TAKE_BACK not in asked.critique and "at least" in asked.critique:
            return _verdict(Verdict.REVISE, f"No group has that many rows. {_TAKE_BACK}")
        if filtered:
            why = "No row fulfils all conditions, which may be true or a slip. Plan a query that counts how many rows"
            return _verdict(Verdict.REPLAN, f"{why} fulfil {_EACH_ALONE}.")
    objections = [*_null_objections(table, asked), *_sample_objections(table, asked)]
    if objections:
        return _verdict(Verdict.REVISE, " ".join(objections))
    doubts = _doubts(table)
    return _verdict(
        Verdict.ACCEPT, f"The {table.count} rows answer the question and no group lacks its name. {doubts}".strip()
    )


def _verdict(verdict: Verdict, why: str) -> Reply:
    return Reply("I check for errors, missing rows, nameless groups and thin samples.", f"{why}\nVERDICT: {verdict}")


def _is_void(table: _Table) -> bool:
    measured = [i for i, name in enumerate(table.columns) if _is_measure(name)]
    if not measured:
        return False
    cells = [row[i] for row in table.rows for i in measured]
    return all(cell in ("", "0") for cell in cells)


def _null_objections(table: _Table, asked: _Prompt) -> list[str]:
    if _DROP_NULLS in asked.critique or "GROUP BY" not in asked.sql:
        return []
    nameless = [name for name in _keys(table) if "" in table.column(name)]
    return (
        [
            f"One group has no {_join([_spoken(name) for name in nameless])}: it gathers rows for which it is unknown. "
            f"{_DROP_NULLS}"
        ]
        if nameless
        else []
    )


def _sample_objections(table: _Table, asked: _Prompt) -> list[str]:
    if "LIMIT" not in asked.sql or "GROUP BY" not in asked.sql or "at least" in asked.critique:
        return []
    thin = _thin_rows(table)
    if not thin:
        return []
    worst = f"{_name_of(table, thin[0])} rests on {_number(thin[0][table.columns.index(_rows_column(table))])}"
    return [
        f"The ranking leans on thin samples ({worst}), where chance decides. "
        f"Keep only groups with at least {ROWS_MIN} rows."
    ]


def _doubts(table: _Table) -> str:
    thin = _thin_rows(table)
    if not thin:
        return ""
    names = _join([_name_of(table, row) for row in thin[:3]])
    return f"Thin samples of fewer than {ROWS_MIN} rows: {names}{' and others' if len(thin) > 3 else ''}."


def _thin_rows(table: _Table) -> Cells:
    counted = _rows_column(table)
    if not counted:
        return []
    at = table.columns.index(counted)
    return [row for row in table.rows if row[at].isdigit() and int(row[at]) < ROWS_MIN]


def _rows_column(table: _Table) -> str:
    """The column that counts flights, where another column is averaged over them or is a share of them.

    Weather readings and planes are all there are, not a sample, so their number is no matter of chance.
    """
    counts = [name for name in table.columns if name == "flights"]
    averaged = [
        name for name in table.columns if re.match(r"(avg|median|stddev)_", name) or name.endswith("share_percent")
    ]
    return counts[-1] if counts and averaged else ""


# The writer.


def _answer(asked: _Prompt) -> Reply:
    if asked.plan.startswith(CANNOT):
        told = asked.plan.removeprefix(CANNOT).strip()
        return Reply(text=f"I could not understand this question. {told}\n\n{NOT_A_MODEL}")
    if asked.result.startswith("ERROR:") or not asked.result:
        reason = asked.result.removeprefix("ERROR:").strip() or "no query was run."
        return Reply(text=f"I could not answer this question: {reason}\n\n{NOT_A_MODEL}")
    table = _table(asked.result)
    said = [_result_words(table, asked)]
    if match := re.search(re.escape(_TAKEN_TO_MEAN) + r"(.+)", asked.plan):
        said.append(f"Note: {match[1]}")
    if "HAVING" in asked.sql and "at least" in asked.critique:
        said.append(f"A first result leaned on groups with fewer than {ROWS_MIN} rows, so these are left out.")
    if _DROP_NULLS in asked.critique and "IS NOT NULL" in asked.sql:
        said.append("Rows of unknown group are left out.")
    if doubt := re.findall(r"Thin samples of fewer.*?\.(?=\s|$)", asked.critique.rpartition("Round ")[2]):
        said.append(doubt[-1])
    return Reply("I read the figures off the result.", f"{' '.join(said)}\n\n{NOT_A_MODEL}")


def _result_words(table: _Table, asked: _Prompt) -> str:
    if not table.rows:
        return "Nothing in the data fits this question."
    if table.columns[0].startswith("all_"):
        return _diagnosis_words(table)
    measures = [name for name in table.columns if _is_measure(name)]
    if len(table.rows) == 1 and len(table.columns) == 2 and table.columns[0].endswith("share_percent"):
        share, count = table.rows[0]
        return f"{_sentence(_spoken(table.columns[0]))}: {_number(share)} % of {_number(count)} {table.columns[1]}."
    if len(table.rows) == 1 and not _keys(table):
        return _sentence(_join([_figure(name, table.column(name)[0]) for name in table.columns]) + ".")
    if not measures:
        return (
            f"The first of {table.count} rows: "
            + ", ".join(
                f"{_spoken(name)} {_amount(name, cell)}"
                for name, cell in zip(table.columns, table.rows[0], strict=True)
            )
            + "."
        )
    first = measures[0]
    if " LIMIT " in asked.sql.replace("\n", " "):
        return _ranking_words(table, first)
    return _spread_words(table, first)


def _diagnosis_words(table: _Table) -> str:
    cells = dict(zip(table.columns, table.rows[0], strict=True))
    total = next(iter(cells.items()))
    parts = [
        f"{_number(cell)} fulfil “{name.removeprefix('only_').replace('_', ' ')}”"
        for name, cell in cells.items()
        if name.startswith("only_")
    ]
    both = cells.get("all_conditions_together")
    end = f", and {_number(both)} fulfil all of it" if both is not None else ""
    return f"Nothing in the data fits: of {_number(total[1])} {total[0].removeprefix('all_')}, {_join(parts)}{end}."


def _ranking_words(table: _Table, first: str) -> str:
    lead = table.rows[0]
    rests = _rows_column(table)
    words = f"{_name_of(table, lead)} comes first with {_figure(first, lead[table.columns.index(first)])}"
    if rests and rests != first:
        words += f" over {_number(lead[table.columns.index(rests)])} {rests}"
    at = table.columns.index(first)
    nexts = [f"{_name_of(table, row)} ({_amount(first, row[at])})" for row in table.rows[1:4]]
    return _sentence(words + (f", before {_join(nexts)}." if nexts else "."))


def _spread_words(table: _Table, first: str) -> str:
    at = table.columns.index(first)
    known = [row for row in table.rows if _is_number(row[at])]
    if not known:
        return "No group has a value."
    ordered = sorted(known, key=lambda row: float(row[at]))
    low, high = ordered[0], ordered[-1]
    if len(table.rows) <= 4:
        parts = [f"{_name_of(table, row)} has {_figure(first, row[at])}" for row in reversed(ordered)]
        end = ""
        if len(known) == 2:
            end = f"; the difference is {_amount(first, f'{float(high[at]) - float(low[at]):.2f}')}"
        return _sentence(f"{_join(parts)}{end}.")
    return _sentence(
        f"over {table.count} groups the {_spoken(first)} runs from {_amount(first, low[at])} ({_name_of(table, low)}) "
        f"to {_amount(first, high[at])} ({_name_of(table, high)})."
    )


# Words for tables.


def _table(result: str) -> _Table:
    head, _, body = result.partition("\n")
    count = int(re.sub(r"\D", "", head) or 0)
    rows = [row for row in csv.reader(io.StringIO(re.sub(r"\n\(the first .*\)$", "\n", body))) if row]
    return _Table(rows[0] if rows else [], rows[1:], count)


def _is_measure(name: str) -> bool:
    if re.match(r"(avg|total|min|max|median|stddev)_", name) or name.endswith(("share_percent", "percent_of_all")):
        return True
    if "_per_" in name:
        return True
    plurals = ("flights", "readings", "planes", "airports", "airlines", "destinations", "origins", "routes", "days",
               "manufacturers", "models", "months", "weeks", "flight_numbers", "engine_types", "aircraft_types",
               "time_zones", "weekdays", "hours", "quarters", "seasons")  # fmt: skip
    return name in plurals or name.endswith("_flights")


def _keys(table: _Table) -> list[str]:
    """The columns that name a group; the airport's name beside its code is only an explanation."""
    return [name for name in table.columns if not _is_measure(name) and name != "airport"]


def _name_of(table: _Table, row: list[str]) -> str:
    parts = []
    for name in _keys(table):
        cell = row[table.columns.index(name)]
        if not cell:
            parts.append(f"unknown {_spoken(name)}")
        elif name == "month" and cell.isdigit():
            parts.append(_MONTHS[int(cell) - 1])
        elif re.fullmatch(r"-?[\d.]+", cell):
            parts.append(f"{_spoken(name)} {_amount(name, cell)}")
        else:
            parts.append(cell)
    label = ""
    if "airport" in table.columns and (text := row[table.columns.index("airport")]):
        label = f" ({text})"
    return " ".join(parts) + label


_MONTHS: Final = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip
_UNITS: Final[Mapping[str, str]] = {
    "min": " minutes", "miles": " miles", "mph": " mph", "f": " °F", "percent": " %", "years": " years", "ft": " feet",
    "inches": " inches", "mbar": " mbar", "degrees": " degrees", "deg": " degrees",
}  # fmt: skip
_SPOKEN: Final[Mapping[str, str]] = {
    "avg": "average",
    "dep": "departure",
    "arr": "arrival",
    "stddev": "standard deviation of",
    "temp": "temperature",
    "humid": "humidity",
    "precip": "precipitation",
    "visib": "visibility",
}


def _spoken(name: str) -> str:
    words = name.split("_")
    if len(words) > 1 and words[-1] in _UNITS:
        words = words[:-1]
    return " ".join(_SPOKEN.get(word, word) for word in words)


def _amount(name: str, cell: str) -> str:
    unit = name.rpartition("_")[2] if "_" in name else ""
    return f"{_number(cell)}{_UNITS.get(unit, '')}"


def _figure(name: str, cell: str) -> str:
    if (
        re.match(r"(avg|total|min|max|median|stddev)_", name)
        or name.endswith(("share_percent", "percent_of_all"))
        or "_per_" in name
    ):
        kind = "a" if not name.startswith(("avg", "arr")) else "an"
        return f"{kind} {_spoken(name)} of {_amount(name, cell)}"
    return f"{_number(cell)} {_spoken(name)}"


def _number(cell: str) -> str:
    if not cell:
        return "no value"
    if not _is_number(cell):
        return cell
    value = float(cell)
    return f"{int(value):,}" if value == int(value) else f"{value:,.2f}"


def _is_number(cell: str) -> bool:
    return re.fullmatch(r"-?\d+(\.\d+)?(e[+-]?\d+)?", cell) is not None


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _join(parts: list[str]) -> str:
    return " and ".join(filter(None, [", ".join(parts[:-1]), parts[-1]])) if parts else ""


_SPEAKERS: Final[Mapping[Role, Callable[[_Prompt], Reply]]] = {
    Role.PLANNER: _plan,
    Role.SQL_WRITER: _write_sql,
    Role.CRITIC: _criticise,
    Role.WRITER: _answer,
}
