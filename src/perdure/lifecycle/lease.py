"""The lease: the exclusive, expiring right to act for a task, fenced by a token."""

from __future__ import annotations

import msgspec

from perdure.lifecycle.ids import TaskId, Tenant, ThreadId, Token, WorkerId


class Lease(msgspec.Struct, frozen=True):
    """Proof that one worker may act for a task, sent with every write made under it.

    `token` only grows on a thread. It is compared for equality together with `nonce`, because a store that came
    back from an older copy can hand out a number twice, but never the same nonce.
    """

    tenant: Tenant
    thread_id: ThreadId
    task_id: TaskId
    token: Token
    nonce: str
    worker: WorkerId
    ttl_ms: int

    @property
    def fence(self) -> str:
        """The token and the nonce as the store compares them."""
        return f"{self.token}:{self.nonce}"


def stop_before_s(ttl_ms: int) -> float:
    """Seconds after the last confirmed renewal at which a holder must have stopped: well before the lease ends."""
    return ttl_ms * 0.8 / 1000


def renew_every_s(ttl_ms: int) -> float:
    """Seconds between renewals: a third of the lease, so that one lost renewal costs nothing."""
    return ttl_ms / 3000
