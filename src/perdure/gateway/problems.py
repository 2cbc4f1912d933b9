"""The one place where errors become HTTP answers: RFC 9457 problem documents.

InvalidRequest        400   errors: which field, what is wrong
NotAuthenticated      401   no key, or one that is not known
Forbidden             403   the key lacks the role; the Host or Origin is not allowed
NotFound              404   also for what belongs to another tenant
WrongMethod           405
Conflict              409   reason: a stable word
TooLarge              413
WrongMediaType        415
IdempotencyMismatch   422
AcceptanceUnknown     503   the store hangs; with Retry-After
Unavailable errors    503   the store or the broker is away; with Retry-After
Closed                503   the gateway drains; with Retry-After
GraphError            500   the author's graph, with the author's traceback in `detail`
anything else         500   tells nothing about its inside; the log does
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

import msgspec
from starlette.exceptions import HTTPException

from perdure.errors import (
    BrokerUnavailable,
    CallerError,
    Conflict,
    DependencyError,
    GraphError,
    IdempotencyMismatch,
    InvalidRequest,
    NotFound,
    StoreUnavailable,
    StoreUnsuitable,
)
from perdure.gateway.hub import Closed

TYPE_ROOT: Final = "https://perdure.dev/problems/"
MEDIA_TYPE: Final = b"application/problem+json"
_LOG = logging.getLogger("perdure.gateway")


class NotAuthenticated(CallerError):
    """No key came with the request, or one that opens nothing."""


class Forbidden(CallerError):
    """The caller is known, but may not do this."""


class WrongMethod(CallerError):
    """The path exists, but not with this method. `allow` lists those it has."""

    def __init__(self, method: str, allow: str) -> None:
        self.allow = allow
        super().__init__(f"{method} is not possible here; use {allow}")


class TooLarge(CallerError):
    """The body is over the bound."""


class WrongMediaType(CallerError):
    """The body is not of a type that this call reads."""


class AcceptanceUnknown(DependencyError):
    """The store did not answer in time: nobody knows whether it keeps the task."""


class FieldError(msgspec.Struct, frozen=True):
    """What is wrong with one field. `pointer` is a JSON pointer into the body, or `/NAME` of a parameter."""

    pointer: str
    detail: str


class Problem(msgspec.Struct, frozen=True, omit_defaults=True):
    """The body of every answer that is an error."""

    type: str
    title: str
    status: int
    detail: str
    reason: str | None = None
    errors: Sequence[FieldError] = ()


def problem_of(error: BaseException, retry_after_s: int = 1) -> tuple[Problem, list[tuple[bytes, bytes]]]:
    """The document for an error and the headers that go with it."""
    match error:
        case InvalidRequest():
            fields = [FieldError(pointer, detail) for pointer, detail in error.problems]
            return _problem("invalid-request", "The request is not valid", 400, str(error), errors=fields), []
        case NotAuthenticated():
            return (
                _problem("not-authenticated", "A key is needed", 401, str(error)),
                [(b"www-authenticate", b'Bearer realm="perdure"')],
            )
        case Forbidden():
            return _problem("forbidden", "Not allowed", 403, str(error)), []
        case NotFound():
            return _problem("not-found", "There is no such thing", 404, str(error)), []
        case WrongMethod():
            return (
                _problem("wrong-method", "The method is not possible here", 405, str(error)),
                [(b"allow", error.allow.encode())],
            )
        case Conflict():
            return _problem("conflict", "The present state forbids it", 409, str(error), reason=error.reason), []
        case TooLarge():
            # The rest of the body is on its way: only a closed connection stops it.
            return _problem("too-large", "The body is too large", 413, str(error)), [(b"connection", b"close")]
        case WrongMediaType():
            return _problem("wrong-media-type", "The media type is not read here", 415, str(error)), []
        case IdempotencyMismatch():
            return (
                _problem("idempotency-mismatch", "The Idempotency-Key was used for another request", 422, str(error)),
                [],
            )
        case AcceptanceUnknown():
            _LOG.warning("the store hangs: %s", error)
            detail = (
                "the store did not answer in time, so it is not known whether the task was stored; "
                "try again: the same Idempotency-Key makes that safe"
            )
            return _problem("acceptance-unknown", "The store does not answer", 503, detail), _retry(retry_after_s)
        case StoreUnavailable() | StoreUnsuitable():
            # The driver's own words may hold addresses or passwords: they belong into the log.
            _LOG.warning("the store is away: %s", error)
            detail = "the store cannot be reached or cannot write now; nothing was accepted; try again"
            return _problem("store-unavailable", "The store is away", 503, detail), _retry(retry_after_s)
        case BrokerUnavailable():
            _LOG.warning("the broker is away: %s", error)
            detail = "the broker cannot be reached; accepted tasks are safe in the store; try again"
            return _problem("broker-unavailable", "The broker is away", 503, detail), _retry(retry_after_s)
        case GraphError():
            return _problem("graph-error", "The graph cannot be used", 500, str(error)), []
        case Closed():
            detail = "this gateway is going; connect again, another one goes on"
            return _problem("draining", "The gateway drains", 503, detail), _retry(retry_after_s)
        case HTTPException(status_code=404):
            return _problem("not-found", "There is no such thing", 404, "no route has this path; see /docs"), []
        case _:
            _LOG.error("a request failed for a reason that nobody foresaw", exc_info=error)
            detail = "the gateway failed for a reason of its own; its log tells which"
            return _problem("internal", "The gateway failed", 500, detail), []


def _problem(
    slug: str, title: str, status: int, detail: str, *, reason: str | None = None, errors: Sequence[FieldError] = ()
) -> Problem:
    return Problem(TYPE_ROOT + slug, title, status, detail, reason, errors)


def _retry(seconds: int) -> list[tuple[bytes, bytes]]:
    return [(b"retry-after", str(seconds).encode())]
