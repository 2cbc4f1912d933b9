"""The schema as the rules know it, read back from the text that stands in every prompt."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

_TABLE: Final = re.compile(r"^TABLE (\w+) \((\d+) rows\): (.*)$")
_COLUMN: Final = re.compile(r"^  (\w+) (\w+): ([^;]*(?:;(?! values:)[^;]*)*)(?:; values: (.*))?$")
_NUMERIC: Final = frozenset({"SMALLINT", "INTEGER", "BIGINT", "DOUBLE", "FLOAT", "DECIMAL"})


@dataclass(frozen=True, slots=True)
class SchemaColumn:
    """A column with its meaning; `values` maps each listed value to its readable name (or to itself)."""

    table: str
    name: str
    type: str
    meaning: str
    values: Mapping[str, str]

    @property
    def is_numeric(self) -> bool:
        """Whether it can be averaged and summed."""
        return self.type in _NUMERIC


@dataclass(frozen=True, eq=False, slots=True)
class Schema:
    """The tables by name, each with its columns by name; two are the same only when they are one object."""

    tables: Mapping[str, Mapping[str, SchemaColumn]]

    def column(self, table: str, name: str) -> SchemaColumn | None:
        """The column, or None when the schema has none of that name."""
        return self.tables.get(table, {}).get(name)


@lru_cache(maxsize=8)
def read_schema(text: str) -> Schema:
    """Read the lines that `dataset.schema_text` writes; other lines are passed over."""
    tables: dict[str, dict[str, SchemaColumn]] = {}
    current = ""
    for line in text.splitlines():
        if table := _TABLE.match(line):
            current = table[1]
            tables[current] = {}
        elif current and (column := _COLUMN.match(line)):
            name, kind, meaning, listed = column.groups()
            tables[current][name] = SchemaColumn(current, name, kind, meaning, _values(listed))
    return Schema(tables)


def _values(listed: str | None) -> dict[str, str]:
    if not listed:
        return {}
    pairs = (entry.partition("=") for entry in listed.split(" | "))
    return {value: label or value for value, _, label in pairs}
