"""What each step says to the chat model, and how its reply is read; the same for every model, offline or not."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from langchain_core.messages import BaseMessage, HumanMessage, SystemMessage

from analyst.sql_guard import Cell

SHOWN_ROWS_MAX: Final = 40
CANNOT: Final = "CANNOT:"


class Role(StrEnum):
    """Who is asked to speak."""

    PLANNER = "planner"
    SQL_WRITER = "SQL writer"
    CRITIC = "critic"
    WRITER = "writer"


class Verdict(StrEnum):
    """What the critic decides: keep the result, write another query, or think again from the start."""

    ACCEPT = "ACCEPT"
    REVISE = "REVISE"
    REPLAN = "REPLAN"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a query gave, as the later steps see it: a table, or an error in its place."""

    sql: str
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[Cell]] = ()
    error: str = ""


_TASK: Final = {
    Role.PLANNER: (
        "You plan how to answer the question with one SQL query over the schema below. Say in a few short sentences: "
        "which tables and joins, which filters, what is grouped, what is measured, how it is ordered, and what you "
        "take an unclear word to mean. Write no SQL. If the schema cannot answer the question, begin your reply with "
        f"{CANNOT} and say why and what could be asked instead. If earlier attempts failed, plan differently."
    ),
    Role.SQL_WRITER: (
        "You write one DuckDB SELECT (or WITH … SELECT) that carries out the plan, and hand it to the tool run_sql. "
        "Only the tables of the schema exist. Give every result column a readable name with its unit, and beside an "
        "average or a share always the number of rows it rests on. If earlier attempts failed, do what the critic says."
    ),
    Role.CRITIC: (
        "You check whether the result answers the question. Look for errors, no rows, groups whose name is NULL, "
        "averages or shares that rest on fewer than 30 rows yet lead the ranking, wrong units, filters that were "
        "forgotten. Do not repeat an objection that was already dealt with. End with one line, exactly "
        f"'VERDICT: {Verdict.ACCEPT}', 'VERDICT: {Verdict.REVISE}' (the query must be written differently) or "
        f"'VERDICT: {Verdict.REPLAN}' (the plan itself is wrong). Before it say why in one to three sentences."
    ),
    Role.WRITER: (
        "You answer the question from the result in a few sentences, with the figures and their units. Say what was "
        "assumed and what the critic still doubts. Use nothing but the result. If there is none, say so plainly."
    ),
}


def prompt(
    role: Role,
    question: str,
    schema: str,
    *,
    plan: str = "",
    outcome: Outcome | None = None,
    critique: str = "",
) -> list[BaseMessage]:
    """The messages for one call: who is asked, what is to be done, the schema, and what is known so far."""
    parts = [("Question", question)]
    if plan:
        parts.append(("Plan", plan))
    if outcome is not None:
        parts.append(("Query", outcome.sql or "(none)"))
        parts.append(("Result", _result_text(outcome)))
    if critique:
        parts.append(("Critique so far", critique))
    return [
        SystemMessage(f"You are the {role} of a data analyst team.\n{_TASK[role]}\n\n## Schema\n{schema}"),
        HumanMessage("\n\n".join(f"## {title}\n{text}" for title, text in parts)),
    ]


def sections(text: str) -> dict[str, str]:
    """The parts of a message that `prompt` made, by title."""
    pieces = re.split(r"^## (.+)\n", text, flags=re.MULTILINE)
    return {title: body.strip() for title, body in zip(pieces[1::2], pieces[2::2], strict=True)}


def read_verdict(reply: str) -> Verdict | None:
    """The verdict that a critic's reply ends with, or None when it gives none."""
    found = re.findall(r"VERDICT:\W*(ACCEPT|REVISE|REPLAN)", reply)
    return Verdict(found[-1]) if found else None


def table_csv(columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    """The table as CSV with a heading; NULL is an empty field."""
    text = io.StringIO()
    out = csv.writer(text, lineterminator="\n")
    out.writerow(columns)
    out.writerows(rows)
    return text.getvalue()


def _result_text(outcome: Outcome) -> str:
    if outcome.error:
        return f"ERROR: {outcome.error}"
    text = f"{len(outcome.rows)} rows\n{table_csv(outcome.columns, outcome.rows[:SHOWN_ROWS_MAX])}"
    if len(outcome.rows) > SHOWN_ROWS_MAX:
        text += f"(the first {SHOWN_ROWS_MAX} rows are shown)"
    return text
