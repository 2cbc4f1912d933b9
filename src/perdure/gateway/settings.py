"""What a deployment may set about its gateway: keys, hosts, bounds and times."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Final

import msgspec

from perdure.errors import ConfigurationError
from perdure.lifecycle.ids import DEFAULT_TENANT, ID_PATTERN, Tenant

MIB: Final = 1024 * 1024


class Role(StrEnum):
    """What the holder of a key may do."""

    SUBMIT = "submit"  # post, cancel, answer and delete tasks; change threads
    READ = "read"  # see tasks, threads, streams, artifacts and graphs
    OPERATE = "operate"  # see the fleet and the metrics; requeue
    CHAOS = "chaos"  # kill workers, where the deployment allows it


class ApiKey(msgspec.Struct, frozen=True):
    """A secret, the tenant whose things it opens, and what it may do there. Its repr does not show the secret."""

    secret: str
    tenant: Tenant = DEFAULT_TENANT
    roles: frozenset[Role] = frozenset(Role)

    def __repr__(self) -> str:
        return f"ApiKey(tenant={self.tenant!r}, roles={'+'.join(sorted(self.roles))})"

    __str__ = __repr__


class GatewaySettings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that may differ from one gateway to another. Units are in the names.

    Without `keys` only this machine is served: `Host` must name the loopback (or one of `hosts`). `insecure` lifts
    that. `origins` are the web origins, besides the gateway's own, whose pages may call; `*` needs keys.
    """

    keys: tuple[ApiKey, ...] = ()
    insecure: bool = False
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    chaos: bool = False
    graph_tiers: Mapping[str, str] = {}
    body_max: int = 8 * MIB
    depth_max: int = 200
    waiters_max: int = 1_000
    wait_max_s: float = 25.0
    accept_timeout_s: float = 5.0
    publish_timeout_s: float = 2.0
    retry_after_s: int = 1
    heartbeat_s: float = 5.0
    stall_s: float = 10.0
    stream_buffer: int = 4 * MIB

    def __post_init__(self) -> None:
        if "*" in self.origins and not self.keys:
            raise ConfigurationError("origins: `*` lets every web page in the world call; set PERDURE_API_KEYS first")


def parse_api_keys(text: str) -> tuple[ApiKey, ...]:
    """Read `PERDURE_API_KEYS`: entries `KEY` or `TENANT:ROLE+ROLE:KEY`, apart by commas or white space.

    Raises ConfigurationError, which tells the entry's place and fault and never its text.
    """
    keys: list[ApiKey] = []
    for place, entry in enumerate(re.split(r"[,\s]+", text.strip()), start=1):
        if not entry:
            continue
        parts = entry.split(":", 2)
        if len(parts) == 2:
            raise ConfigurationError(f"PERDURE_API_KEYS, entry {place}: write `KEY` or `TENANT:ROLE+ROLE:KEY`")
        secret = parts[-1]
        if len(secret) < 8 or not secret.isascii():
            raise ConfigurationError(
                f"PERDURE_API_KEYS, entry {place}: a key needs at least 8 ASCII characters; "
                "make one with `python3 -c 'import secrets; print(secrets.token_urlsafe(24))'`"
            )
        if len(parts) == 1:
            keys.append(ApiKey(secret))
            continue
        tenant, roles = parts[0], parts[1]
        if not re.match(ID_PATTERN[:-1] + r"\Z", tenant):
            raise ConfigurationError(f"PERDURE_API_KEYS, entry {place}: the tenant does not match {ID_PATTERN}")
        try:
            keys.append(ApiKey(secret, Tenant(tenant), frozenset(map(Role, roles.split("+")))))
        except ValueError:
            raise ConfigurationError(
                f"PERDURE_API_KEYS, entry {place}: roles are {', '.join(Role)}, joined with `+`"
            ) from None
    return tuple(keys)
