"""The one tree of errors that Perdure raises; the type says whose fault it is.

PerdureError
├── CallerError                 the request cannot be served as it stands; names what to change
│   ├── InvalidRequest          a field is wrong (pointer, detail)
│   ├── NotFound                no such task, thread, graph, checkpoint or artifact
│   ├── Conflict                the state forbids it (thread busy, interrupt already answered, …)
│   └── IdempotencyMismatch     the same Idempotency-Key came with another body
├── LeaseLost                   another attempt owns the task, or it ended: stop and write nothing
├── DependencyError             something that Perdure leans on failed
│   ├── StoreUnavailable        the store cannot be reached or refuses to write; trying again may help
│   ├── StoreUnsuitable         the store can be reached but cannot keep Perdure's promises
│   └── BrokerUnavailable       the broker cannot be reached; tasks stay safe in the store
├── GraphError                  the author's graph cannot be loaded or cannot be run as written
└── ConfigurationError          a setting is missing, malformed or contradicts another
"""

from __future__ import annotations


class PerdureError(Exception):
    """Root of everything that Perdure raises on purpose."""


class CallerError(PerdureError):
    """The request cannot be served as it stands."""


class InvalidRequest(CallerError):
    """One or more fields are wrong. `problems` holds `(JSON pointer, what is wrong and how to mend it)` pairs."""

    def __init__(self, *problems: tuple[str, str]) -> None:
        self.problems = problems
        super().__init__("; ".join(f"{pointer or '/'}: {detail}" for pointer, detail in problems))


class NotFound(CallerError):
    """No such thing, or it belongs to somebody else."""


class Conflict(CallerError):
    """The present state forbids the request. `reason` is a stable word for programs."""

    def __init__(self, reason: str, detail: str) -> None:
        self.reason = reason
        super().__init__(detail)


class IdempotencyMismatch(CallerError):
    """The Idempotency-Key was used before with another body."""


class LeaseLost(PerdureError):
    """This holder may no longer act for the task: it was superseded, cancelled, or the task ended."""


class DependencyError(PerdureError):
    """Something that Perdure leans on failed."""


class StoreUnavailable(DependencyError):
    """The store cannot be reached, or answered that it cannot write now. Nothing is known to be stored."""


class StoreUnsuitable(DependencyError):
    """The store works, but is too old or configured so that accepted tasks could be lost."""


class BrokerUnavailable(DependencyError):
    """The broker cannot be reached. The store still holds every accepted task."""


class GraphError(PerdureError):
    """The author's graph cannot be loaded, or cannot be run as it is written."""


class ConfigurationError(PerdureError):
    """A setting is missing, malformed, or contradicts another."""
