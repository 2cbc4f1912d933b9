"""Which items and namespaces a search means, and how near vectors are: pure functions over values."""

from __future__ import annotations

import math
import operator
from array import array
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from typing import Any, Final

from langgraph.store.base import MatchCondition

_COMPARE: Final[Mapping[str, Callable[[Any, Any], bool]]] = {
    "$eq": operator.eq,
    "$ne": operator.ne,
    "$gt": lambda value, bound: float(value) > float(bound),
    "$gte": lambda value, bound: float(value) >= float(bound),
    "$lt": lambda value, bound: float(value) < float(bound),
    "$lte": lambda value, bound: float(value) <= float(bound),
}
_HAS_NUMPY: Final = find_spec("numpy") is not None


def passes(value: Mapping[str, Any], filter: Mapping[str, Any] | None) -> bool:
    """Does an item's value pass a filter? As LangGraph's in-memory store decides it.

    Raises ValueError for an operator that does not exist or whose operand is no number.
    """
    return not filter or all(_agrees(value.get(key), wanted) for key, wanted in filter.items())


def _agrees(value: Any, wanted: Any) -> bool:
    if isinstance(wanted, dict):
        if any(key.startswith("$") for key in wanted):
            return all(_compare(value, name, operand) for name, operand in wanted.items())
        return isinstance(value, dict) and all(_agrees(value.get(key), inner) for key, inner in wanted.items())
    if isinstance(wanted, list | tuple):
        return (
            isinstance(value, list | tuple)
            and len(value) == len(wanted)
            and all(_agrees(one, other) for one, other in zip(value, wanted, strict=True))
        )
    return bool(value == wanted)


def _compare(value: Any, name: str, operand: Any) -> bool:
    compare = _COMPARE.get(name)
    if compare is None:
        raise ValueError(f"unsupported operator {name!r} in a filter: use one of {', '.join(_COMPARE)}")
    return compare(value, operand)


def is_meant(namespace: Sequence[str], condition: MatchCondition) -> bool:
    """Does a namespace begin or end with the labels of a condition? `*` stands for any label."""
    path = condition.path
    if len(namespace) < len(path):
        return False
    if condition.match_type == "prefix":
        labels = namespace[: len(path)]
    elif condition.match_type == "suffix":
        labels = namespace[len(namespace) - len(path) :]
    else:
        raise ValueError(f"unsupported match type {condition.match_type!r}: use 'prefix' or 'suffix'")
    return all(wanted in ("*", label) for label, wanted in zip(labels, path, strict=True))


def pack_vector(vector: Sequence[float]) -> bytes:
    """As float32, little-endian."""
    packed = array("f", vector)
    if _IS_BIG_ENDIAN:
        packed.byteswap()
    return packed.tobytes()


def unpack_vector(data: bytes) -> array[float]:
    """The inverse of `pack_vector`."""
    vector = array("f")
    vector.frombytes(data)
    if _IS_BIG_ENDIAN:
        vector.byteswap()
    return vector


_IS_BIG_ENDIAN: Final = array("H", [1]).tobytes()[0] == 0


def cosines(query: Sequence[float], vectors: Sequence[bytes]) -> list[float]:
    """The cosine of the angle between `query` and each packed vector; 0 where one of them is null.

    With numpy where it is installed, otherwise in plain Python (about 50 times slower).
    """
    if not vectors:
        return []
    if _HAS_NUMPY:
        return _cosines_by_numpy(query, vectors)
    wanted = unpack_vector(pack_vector(query))
    norm = math.hypot(*wanted)
    found: list[float] = []
    for data in vectors:
        vector = unpack_vector(data)
        length = math.hypot(*vector) * norm
        found.append(sum(map(operator.mul, wanted, vector)) / length if length else 0.0)
    return found


def _cosines_by_numpy(query: Sequence[float], vectors: Sequence[bytes]) -> list[float]:
    import numpy as np  # type: ignore[import-not-found, unused-ignore]

    wanted = np.asarray(query, dtype="<f4")
    matrix = np.frombuffer(b"".join(vectors), dtype="<f4").reshape(len(vectors), -1)
    lengths = np.linalg.norm(matrix, axis=1) * np.linalg.norm(wanted)
    products = matrix @ wanted
    scores: list[float] = np.divide(products, lengths, out=np.zeros_like(products), where=lengths != 0).tolist()
    return scores
