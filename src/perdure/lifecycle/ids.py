"""Ids: their types and the one pattern that every id from outside must match."""

from __future__ import annotations

import re
from typing import Final, NewType

from perdure.errors import InvalidRequest

TaskId = NewType("TaskId", str)
ThreadId = NewType("ThreadId", str)
WorkerId = NewType("WorkerId", str)
Tenant = NewType("Tenant", str)
Token = NewType("Token", int)

DEFAULT_TENANT: Final = Tenant("default")
ID_PATTERN: Final = r"^[A-Za-z0-9][A-Za-z0-9_.:@-]{0,127}$"
_ID = re.compile(ID_PATTERN[:-1] + r"\Z")


def check_id(value: str, pointer: str) -> str:
    """Return `value` if it may be an id; otherwise raise InvalidRequest that names `pointer`."""
    if _ID.match(value):
        return value
    shown = value if len(value) <= 40 else value[:37] + "..."
    raise InvalidRequest(
        (
            pointer,
            f"{shown!r} is not an id: 1 to 128 characters out of A-Z a-z 0-9 _ . : @ -, the first a letter or a digit",
        )
    )
