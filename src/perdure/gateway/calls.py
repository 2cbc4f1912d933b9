"""A call: one request with its caller, its typed body and query, and the answers that routes give."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from perdure.errors import InvalidRequest, NotFound
from perdure.gateway.access import Caller, Headers
from perdure.gateway.body import check_json, decode, escaped, read_body
from perdure.gateway.services import Services
from perdure.gateway.settings import Role
from perdure.lifecycle.doorbell import TaskRef, ThreadRef
from perdure.lifecycle.ids import TaskId, ThreadId, check_id

T = TypeVar("T")

LIMIT_MAX: Final = 100
UUID_PATTERN: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z")
_KEY: Final = re.compile(r"[\x21-\x7e]{1,255}\Z")
_ENCODER: Final = msgspec.json.Encoder()


class Call(msgspec.Struct, frozen=True):
    """What a route gets."""

    services: Services
    request: Request
    caller: Caller
    headers: Headers

    def id(self, name: str) -> str:
        """An id out of the path."""
        return check_id(self.request.path_params[name], f"/{name}")

    async def task(self) -> TaskRef:
        """Where the task of the path lives. Raises NotFound, also for another tenant's."""
        return await locate(self.services, self.id("task_id"), self.caller)

    @property
    def thread(self) -> ThreadRef:
        """The thread of the path, which need not exist."""
        return ThreadRef(self.caller.tenant, ThreadId(self.id("thread_id")))

    async def body(self, decoder: msgspec.json.Decoder[T]) -> tuple[T, bytes]:
        """The typed body and its bytes."""
        settings = self.services.settings
        raw = await read_body(self.request.receive, self.headers, settings.body_max)
        check_json(raw, self.headers, settings)
        return decode(decoder, raw), raw

    async def no_body(self) -> bytes:
        """Read the body of a call that needs none; an empty JSON object may come."""
        raw = await read_body(self.request.receive, self.headers, self.services.settings.body_max)
        if raw.strip() not in (b"", b"{}"):
            raise InvalidRequest(("", "this call takes no body"))
        return b""

    async def reserve(self, raw: bytes, answer: bytes) -> bytes | None:
        """What the first call under this Idempotency-Key kept. None without a key, or if this is the first call."""
        return await reserve(self.services, self.caller, self.headers, self.request.scope["path"], raw, answer)

    def query(self, *names: str, prefix: str = "") -> dict[str, str]:
        """The query's parameters. Raises InvalidRequest for one that this call does not know: a filter that is
        silently ignored would answer another question."""
        found = dict(self.request.query_params)
        for name in found:
            if name not in names and not (prefix and name.startswith(prefix) and len(name) > len(prefix)):
                known = ", ".join((*names, *([f"{prefix}KEY"] if prefix else [])))
                raise InvalidRequest((f"/{escaped(name)}", f"there is no such query parameter; there are: {known}"))
        return found


Endpoint = Callable[[Call], Awaitable[Response | ASGIApp]]


class Operation(msgspec.Struct, frozen=True):
    """One call of the API: how it is reached, who may, and what goes in and out."""

    method: str
    path: str
    endpoint: Endpoint
    summary: str
    role: Role | None = Role.READ
    body: Any = None
    answer: Any = None
    status: int = 200
    media_type: str = "application/json"
    query: Sequence[str] = ()
    headers: Sequence[str] = ()
    also: Mapping[int, Any] = {}  # further answers that are no problems: status and type
    limit_max: int = LIMIT_MAX


def answer(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A value as JSON."""
    return Response(_ENCODER.encode(value), status, headers, "application/json")


def limit_of(query: Mapping[str, str], default: int = 20, most: int = LIMIT_MAX) -> int:
    text = query.get("limit")
    if text is None:
        return default
    if not text.isascii() or not text.isdigit() or len(text) > 6 or not 1 <= int(text) <= most:
        raise InvalidRequest(("/limit", f"{text[:40]!r} is not a number from 1 to {most}"))
    return int(text)


def cursor_of(query: Mapping[str, str]) -> str | None:
    text = query.get("cursor")
    if text is not None and not re.match(r"[A-Za-z0-9_.:@/|-]{1,300}\Z", text):
        raise InvalidRequest(("/cursor", "this is not a cursor; send what `next_cursor` said"))
    return text


async def locate(services: Services, task_id: str, caller: Caller) -> TaskRef:
    """Where a task of the caller's lives."""
    ref = await services.store.locate(TaskId(task_id), caller.tenant)
    if ref is None:
        raise NotFound(f"there is no task {task_id!r}")
    return ref


def idempotency_key(headers: Headers) -> str | None:
    """The key, whether it came quoted, as the draft standard wants, or bare."""
    if headers.idempotency_key is None:
        return None
    text = headers.idempotency_key.decode("latin-1").strip()
    if len(text) >= 2 and text[0] == text[-1] == '"':
        text = text[1:-1]
    if not _KEY.match(text):
        raise InvalidRequest(("/Idempotency-Key", "use 1 to 255 visible ASCII characters, such as a UUID"))
    return text


async def reserve(
    services: Services, caller: Caller, headers: Headers, path: str, raw: bytes, answer: bytes
) -> bytes | None:
    """Keep `answer` under the request's Idempotency-Key, or return what was kept first. See `TaskStore.reserve`."""
    key = idempotency_key(headers)
    if key is None:
        return None
    fingerprint = hashlib.blake2b(path.encode() + b"\n" + raw, digest_size=16).hexdigest()
    return await services.store.reserve(caller.tenant, key, fingerprint, answer)


REPLAYED: Final = {"Idempotency-Replayed": "true"}
