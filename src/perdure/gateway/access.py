"""Who calls, from where, and what they may do: Host, Origin, key and role, decided before any route runs.

Without keys only pages and programs of this machine are served, so `Host` must name the loopback (a rebound DNS name
does not) and `Origin`, where a browser sends one, must be the gateway's own or a configured one.
"""

from __future__ import annotations

import hmac
from typing import Final

import msgspec
from starlette.types import Scope

from perdure.gateway.problems import Forbidden, NotAuthenticated
from perdure.gateway.settings import GatewaySettings, Role
from perdure.lifecycle.ids import DEFAULT_TENANT, Tenant

LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "[::1]", "::1"})
EXPOSED: Final = b"Location, Content-Location, Idempotency-Replayed, Preference-Applied, Retry-After"
_ALLOWED: Final = b"Authorization, Content-Type, Idempotency-Key, Last-Event-ID, Prefer, X-Api-Key, Accept"


class Caller(msgspec.Struct, frozen=True):
    """Whose things a request may touch, and how."""

    tenant: Tenant
    roles: frozenset[Role]

    def require(self, role: Role) -> None:
        """Raise Forbidden if the key lacks `role`."""
        if role not in self.roles:
            raise Forbidden(f"this call needs a key with the role {role}")


class Headers(msgspec.Struct):
    """The few headers that decide about access and about reading the body, taken in one pass."""

    host: bytes = b""
    origin: bytes | None = None
    key: str | None = None
    content_type: bytes = b""
    content_length: bytes | None = None
    idempotency_key: bytes | None = None
    prefer: bytes | None = None


def read_headers(scope: Scope) -> Headers:
    """Pick them out of the ASGI scope, whose header names are lower case."""
    found = Headers()
    for name, value in scope["headers"]:
        if name == b"host":
            found.host = value
        elif name == b"origin":
            found.origin = value
        elif name == b"content-type":
            found.content_type = value
        elif name == b"content-length":
            found.content_length = value
        elif name == b"authorization":
            scheme, _, secret = value.partition(b" ")
            if scheme.lower() == b"bearer":
                found.key = secret.strip().decode("latin-1")
        elif name == b"x-api-key":
            found.key = value.strip().decode("latin-1")
        elif name == b"idempotency-key":
            found.idempotency_key = value
        elif name == b"prefer":
            found.prefer = value
    return found


class Access:
    """Decides for every request; holds the keys."""

    def __init__(self, settings: GatewaySettings) -> None:
        self._keys = [(key.secret.encode(), Caller(key.tenant, key.roles)) for key in settings.keys]
        self._hosts = None if self._keys or settings.insecure else LOOPBACK | frozenset(settings.hosts)
        self._origins = frozenset(origin.encode() for origin in settings.origins)
        self._anybody = Caller(DEFAULT_TENANT, frozenset(Role))

    def admit(self, headers: Headers, *, open_to_all: bool = False) -> Caller:
        """The caller. Raises NotAuthenticated or Forbidden; `open_to_all` routes need no key."""
        if self._hosts is not None:
            self._check_host(headers.host)
        if (
            headers.origin is not None
            and not self._is_own(headers.origin, headers.host)
            and self.guest(headers) is None
        ):
            raise Forbidden("pages of this origin may not call; name it in the gateway's origins to let them")
        return self._caller(headers.key, open_to_all)

    def guest(self, headers: Headers) -> bytes | None:
        """The web origin whose pages may read the answer, a refusal too; None for the gateway's own and all others."""
        origin = headers.origin
        if origin is None or self._is_own(origin, headers.host):
            return None
        return origin if origin in self._origins or b"*" in self._origins else None

    def _check_host(self, host: bytes) -> None:
        assert self._hosts is not None
        text = host.decode("latin-1").lower()
        name = text[: text.find("]") + 1] if text.startswith("[") else text.partition(":")[0]
        if name not in self._hosts:
            raise Forbidden(
                "this gateway serves its own machine only: call it as localhost or 127.0.0.1, "
                "or set PERDURE_API_KEYS to serve others"
            )

    @staticmethod
    def _is_own(origin: bytes, host: bytes) -> bool:
        return origin.partition(b"://")[2].lower() == host.lower()

    def _caller(self, key: str | None, open_to_all: bool) -> Caller:
        if not self._keys or open_to_all:
            return self._anybody
        if key is None:
            raise NotAuthenticated("send a key as `Authorization: Bearer KEY` or `x-api-key: KEY`")
        sent, found = key.encode("utf-8", "replace"), None
        for secret, caller in self._keys:
            # All keys are compared, each in constant time, so that the answer's time tells nothing.
            if hmac.compare_digest(secret, sent):
                found = caller
        if found is None:
            raise NotAuthenticated("the key is not known")
        return found


def preflight_headers(origin: bytes) -> list[tuple[bytes, bytes]]:
    """The answer to a browser that asks before it calls."""
    return [
        (b"access-control-allow-origin", origin),
        (b"access-control-allow-methods", b"GET, POST, DELETE"),
        (b"access-control-allow-headers", _ALLOWED),
        (b"access-control-max-age", b"600"),
        (b"vary", b"Origin"),
    ]


def cross_origin_headers(origin: bytes) -> list[tuple[bytes, bytes]]:
    """What lets a page of another origin read an answer."""
    return [
        (b"access-control-allow-origin", origin),
        (b"access-control-expose-headers", EXPOSED),
        (b"vary", b"Origin"),
    ]
