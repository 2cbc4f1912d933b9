"""Counters, gauges and histograms, and the Prometheus text that shows them.

A registry is a value that is handed in, never a global: two gateways in one process count apart.
Names and label names are fixed by the code, never taken from requests, so their number is bounded.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Final

LATENCY_BUCKETS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0)
Labels = tuple[str, ...]


class Counter:
    """A number that only grows."""

    kind: Final = "counter"

    def __init__(self, name: str, text: str, labels: Sequence[str] = ()) -> None:
        self.name, self.text, self.labels = name, text, tuple(labels)
        self._values: dict[Labels, float] = {}

    def add(self, *labels: str, amount: float = 1) -> None:
        self._values[labels] = self._values.get(labels, 0) + amount

    def value(self, *labels: str) -> float:
        return self._values.get(labels, 0)

    def lines(self) -> list[str]:
        return [f"{self.name}{_shown(self.labels, key)} {_number(value)}" for key, value in self._values.items()]


class Gauge:
    """A number that is set, or moved up and down."""

    kind: Final = "gauge"

    def __init__(self, name: str, text: str, labels: Sequence[str] = ()) -> None:
        self.name, self.text, self.labels = name, text, tuple(labels)
        self._values: dict[Labels, float] = {}

    def set(self, value: float, *labels: str) -> None:
        self._values[labels] = value

    def add(self, *labels: str, amount: float = 1) -> None:
        self._values[labels] = self._values.get(labels, 0) + amount

    def value(self, *labels: str) -> float:
        return self._values.get(labels, 0)

    def clear(self) -> None:
        """Forget all label sets, before a whole new picture is set."""
        self._values.clear()

    def lines(self) -> list[str]:
        return [f"{self.name}{_shown(self.labels, key)} {_number(value)}" for key, value in self._values.items()]


class Histogram:
    """How often values fell below each bound, their sum and their count."""

    kind: Final = "histogram"

    def __init__(
        self, name: str, text: str, labels: Sequence[str] = (), buckets: Sequence[float] = LATENCY_BUCKETS_S
    ) -> None:
        self.name, self.text, self.labels = name, text, tuple(labels)
        self._bounds = tuple(buckets)
        self._values: dict[Labels, tuple[list[int], list[float]]] = {}

    def observe(self, value: float, *labels: str) -> None:
        entry = self._values.get(labels)
        if entry is None:
            entry = self._values[labels] = ([0] * (len(self._bounds) + 1), [0.0])
        entry[0][bisect_left(self._bounds, value)] += 1
        entry[1][0] += value

    def count(self, *labels: str) -> int:
        entry = self._values.get(labels)
        return sum(entry[0]) if entry else 0

    def lines(self) -> list[str]:
        found: list[str] = []
        names = (*self.labels, "le")
        for key, (counts, total) in self._values.items():
            below = 0
            for bound, count in zip((*map(_number, self._bounds), "+Inf"), counts, strict=True):
                below += count
                found.append(f"{self.name}_bucket{_shown(names, (*key, bound))} {below}")
            found.append(f"{self.name}_sum{_shown(self.labels, key)} {_number(total[0])}")
            found.append(f"{self.name}_count{_shown(self.labels, key)} {below}")
        return found


class MetricRegistry:
    """The metrics of one part of the house, in the order in which they were made."""

    def __init__(self) -> None:
        self._metrics: list[Counter | Gauge | Histogram] = []

    def counter(self, name: str, text: str, labels: Sequence[str] = ()) -> Counter:
        metric = Counter(name, text, labels)
        self._metrics.append(metric)
        return metric

    def gauge(self, name: str, text: str, labels: Sequence[str] = ()) -> Gauge:
        metric = Gauge(name, text, labels)
        self._metrics.append(metric)
        return metric

    def histogram(
        self, name: str, text: str, labels: Sequence[str] = (), buckets: Sequence[float] = LATENCY_BUCKETS_S
    ) -> Histogram:
        metric = Histogram(name, text, labels, buckets)
        self._metrics.append(metric)
        return metric

    def prometheus(self) -> str:
        """All metrics in the Prometheus text format 0.0.4."""
        lines: list[str] = []
        for metric in self._metrics:
            lines.append(f"# HELP {metric.name} {metric.text}")
            lines.append(f"# TYPE {metric.name} {metric.kind}")
            lines += metric.lines()
        return "\n".join(lines) + "\n"


def _shown(names: Sequence[str], values: Sequence[str]) -> str:
    if not names:
        return ""
    pairs = ",".join(f'{name}="{_escaped(value)}"' for name, value in zip(names, values, strict=True))
    return "{" + pairs + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)
