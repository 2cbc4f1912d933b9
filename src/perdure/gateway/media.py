"""Which of the forms that an answer can have a client would rather read, by its `Accept` header (RFC 9110, 12.5.1)."""

from __future__ import annotations

from collections.abc import Sequence


def preferred(accept: str, offered: Sequence[str]) -> str:
    """The offered media type with the highest weight; the earlier of equals, and the first if none is wanted."""
    ranges = [_range(part) for part in accept.split(",") if part.strip()]
    best, weight = offered[0], 0.0
    for kind in offered:
        given = _weight(kind, ranges)
        if given > weight:
            best, weight = kind, given
    return best


def _range(part: str) -> tuple[str, float]:
    """A media range and its weight. A weight that cannot be read counts as none: 1."""
    kind, *parameters = (piece.strip().lower() for piece in part.split(";"))
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return kind, min(max(float(value), 0.0), 1.0)
            except ValueError:
                return kind, 1.0
    return kind, 1.0


def _weight(kind: str, ranges: Sequence[tuple[str, float]]) -> float:
    """The weight of the most specific range that covers the type."""
    for wanted in (kind, f"{kind.partition('/')[0]}/*", "*/*"):
        for name, weight in ranges:
            if name == wanted:
                return weight
    return 0.0
