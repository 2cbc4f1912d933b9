"""What a worker's supervisor says about itself over HTTP: alive, ready, and figures for a scraper."""

from __future__ import annotations

import asyncio

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from perdure.worker.supervisor import Supervisor


def health_app(supervisor: Supervisor, stop: asyncio.Event, tier: str) -> Starlette:
    """`/livez` answers while the process runs, `/readyz` while every child is ready and none drains."""

    async def alive(request: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def ready(request: Request) -> Response:
        if stop.is_set():
            return PlainTextResponse("draining\n", 503)
        text = f"{supervisor.ready} of {supervisor.size} workers are ready\n"
        return PlainTextResponse(text, 200 if supervisor.ready == supervisor.size else 503)

    async def metrics(request: Request) -> Response:
        label = f'{{tier="{tier}"}}'
        lines = [
            "# HELP perdure_worker_processes Worker processes that this supervisor keeps alive.",
            "# TYPE perdure_worker_processes gauge",
            f"perdure_worker_processes{label} {supervisor.size}",
            "# HELP perdure_worker_processes_ready Those of them that are ready.",
            "# TYPE perdure_worker_processes_ready gauge",
            f"perdure_worker_processes_ready{label} {supervisor.ready}",
            "# HELP perdure_worker_threads_held Threads that they hold now.",
            "# TYPE perdure_worker_threads_held gauge",
            f"perdure_worker_threads_held{label} {supervisor.held}",
            "# HELP perdure_worker_deaths_total Worker processes that ended without having been asked to.",
            "# TYPE perdure_worker_deaths_total counter",
            f"perdure_worker_deaths_total{label} {supervisor.deaths}",
        ]
        return PlainTextResponse("\n".join(lines) + "\n", media_type="text/plain; version=0.0.4")

    routes = [("/livez", alive), ("/healthz", alive), ("/readyz", ready), ("/metrics", metrics)]
    return Starlette(routes=[Route(path, handler) for path, handler in routes])
