"""Health and metrics: does this process live, can it serve, and what has it done."""

from __future__ import annotations

import asyncio
from typing import Final

from starlette.responses import Response

from perdure.errors import PerdureError, StoreUnavailable
from perdure.gateway.calls import Call, Operation, answer
from perdure.gateway.settings import Role
from perdure.gateway.wire import Health

READY_PATIENCE_S: Final = 2.0
"""A store that needs longer to answer is away, for a balancer that asks: probes wait no longer than a few seconds."""


def operations() -> list[Operation]:
    return [
        Operation("GET", "/livez", live, "Does this process answer?", None, answer=Health),
        Operation("GET", "/healthz", live, "The same as /livez", None, answer=Health),
        Operation(
            "GET", "/readyz", ready, "Can it serve? 503 while draining or without the store", None, answer=Health
        ),
        Operation("GET", "/metrics", metrics, "Prometheus metrics", Role.OPERATE, media_type="text/plain"),
    ]


async def live(call: Call) -> Response:
    return answer(Health("ok"))


async def ready(call: Call) -> Response:
    if call.services.hub.closed:
        return answer(Health("draining", {"gateway": "draining"}), 503)
    try:
        async with asyncio.timeout(READY_PATIENCE_S):
            await call.services.store.ping()
    except (PerdureError, TimeoutError):
        return answer(Health("unavailable", {"store": "away"}), 503, {"Retry-After": "1"})
    return answer(Health("ok", {"store": "ok"}))


async def metrics(call: Call) -> Response:
    """The gateway's own numbers, and the fleet's as the store tells them."""
    services = call.services
    own = services.metrics
    try:
        counts, fleet = await services.store.counts(), await services.store.workers()
    except StoreUnavailable:
        # A scrape must not fail with the store: the gateway's own numbers are what is needed then.
        counts, fleet = {}, ()
    own.live.clear()
    for name, count in counts.items():
        tier, _, status = name.partition("/")
        own.live.set(count, tier, status)
    own.workers.clear()
    for worker in fleet:
        own.workers.add(worker.tier)
    return Response(own.registry.prometheus(), media_type="text/plain; version=0.0.4; charset=utf-8")
