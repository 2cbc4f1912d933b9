"""`perdure doctor`: looks at a deployment from where it is started, and says what to mend."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from perdure.cli.connect import gateway_options
from perdure.cli.serve import BROKER, CONFIG, DATA_DIR, HOST, PORT, STORE, load, options

if TYPE_CHECKING:
    from perdure.settings import Settings
    from perdure.store.base import Finding

FSYNC_SLOW_MS: Final = 20.0
FSYNC_TRIES: Final = 20


@click.command()
@options(CONFIG, DATA_DIR, STORE, BROKER, HOST, PORT)
@click.option("--settings", "settings_file", metavar="FILE", help="Settings file.  [default: ./perdure.toml]")
@gateway_options
def doctor(settings_file: str | None, url: str, api_key: str | None, **flags: object) -> None:
    """Check this deployment and say what to mend.

    Looks at Python, the graphs, the store and the broker, the disk, the port and the workers, with the settings that
    `perdure dev`, `gateway` and `worker` would use here. Exit code 1 if something keeps Perdure from working or could
    lose an accepted task; what is only slow or only missing for now is marked `!`.
    """
    import asyncio

    settings = load(flags, settings_file)
    findings = asyncio.run(_collect(settings, url, api_key))
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        mark, colour = ("ok", "green") if finding.ok else ("XX", "red") if finding.fatal else ("! ", "yellow")
        click.echo(f"{click.style(mark, fg=colour)}  {finding.name:<{width}}  {finding.detail}")
        if finding.mend:
            click.echo(f"{'':<{width + 4}}  mend: {finding.mend}")
    fatal = sum(finding.fatal for finding in findings)
    warned = sum(not finding.ok and not finding.fatal for finding in findings)
    if fatal:
        click.echo(f"{fatal} to mend first, {warned} to look at")
        raise click.exceptions.Exit(1)
    click.echo("All well" if not warned else f"It works; {warned} to look at")


async def _collect(settings: Settings, url: str, api_key: str | None) -> list[Finding]:
    import asyncio

    found = [_python()]
    found += [finding async for finding in _graphs(settings)]
    found += [finding async for finding in _store(settings)]
    if settings.store is None:
        found.append(await asyncio.to_thread(_fsync, Path(settings.data_dir)))
    found.extend(await asyncio.to_thread(lambda: list(_gateway(settings, url, api_key))))
    return found


def _python() -> Finding:
    from importlib.metadata import version

    from perdure.store.base import Finding

    text = f"Python {sys.version.split()[0]}, perdure {version('perdure')}, langgraph {version('langgraph')}"
    ok = sys.version_info >= (3, 11)
    return Finding("python", ok, text, "" if ok else "use Python 3.11 or newer", fatal=not ok)


async def _graphs(settings: Settings) -> AsyncIterator[Finding]:
    """Every graph is imported, as a worker would import it."""
    from perdure.errors import ConfigurationError, GraphError
    from perdure.graph.registry import GraphRegistry
    from perdure.store.base import Finding

    if not Path(settings.config).is_file():  # noqa: ASYNC240 - nothing else runs in this loop
        mend = "go to the folder of a LangGraph project, or make one: perdure init my-agent"
        yield Finding("graphs", False, f"there is no {settings.config} here", mend)
        return
    try:
        registry = GraphRegistry.from_file(Path(settings.config))
    except ConfigurationError as error:
        yield Finding("graphs", False, str(error), fatal=True)
        return
    for name in registry.names:
        began = time.monotonic()
        try:
            graph = await registry.load(name)
        except GraphError as error:
            yield Finding(f"graph {name}", False, str(error), "mend the graph", fatal=True)
        else:
            took = f"loads in {(time.monotonic() - began) * 1000:.0f} ms"
            yield Finding(f"graph {name}", True, f"{took}, {len(graph.describe()['nodes'])} nodes")


async def _store(settings: Settings) -> AsyncIterator[Finding]:
    from perdure.assembly import connect
    from perdure.clock import SystemClock
    from perdure.errors import BrokerUnavailable, DependencyError
    from perdure.store.base import Finding
    from perdure.valkey.embedded import find_server

    if settings.store is None:
        try:
            yield Finding("store", True, f"embedded: `perdure dev` starts {find_server()}")
        except DependencyError as error:
            yield Finding("store", False, str(error), fatal=True)
        return
    try:
        async with connect(settings, SystemClock()) as ports:
            await ports.store.ping()
            yield Finding("store", True, f"answers and can write; an accepted task survives: {ports.store.stored}")
            for finding in await ports.store.check():
                yield finding
            try:
                await ports.broker.depth(settings.tier)
                yield Finding("broker", True, "answers")
            except BrokerUnavailable as error:
                mend = "tasks are accepted and stay safe, but start late until it is back"
                yield Finding("broker", False, str(error), mend)
    except DependencyError as error:
        yield Finding("store", False, str(error), "start it, or point PERDURE_STORE at one that runs", fatal=True)


def _fsync(folder: Path) -> Finding:
    """How long the disk under the data folder takes to keep 4 KiB: the floor of every accepted task."""
    import statistics

    from perdure.store.base import Finding

    place = next(parent for parent in (folder.resolve(), *folder.resolve().parents) if parent.exists())
    probe = place / f".perdure-fsync-{os.getpid()}"
    times = []
    try:
        descriptor = os.open(probe, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o600)
        try:
            for _ in range(FSYNC_TRIES):
                began = time.perf_counter()
                os.write(descriptor, b"\0" * 4096)
                os.fsync(descriptor)
                times.append((time.perf_counter() - began) * 1000)
        finally:
            os.close(descriptor)
            probe.unlink()
    except OSError as error:
        mend = "make it writable, or choose another with --data-dir"
        return Finding("disk", False, f"cannot write in {place}: {error.strerror}", mend, fatal=True)
    median = statistics.median(times)
    ok = median <= FSYNC_SLOW_MS
    mend = "" if ok else "every acceptance waits for this; put --data-dir on a faster disk"
    return Finding("disk", ok, f"fsync of 4 KiB in {place}: {median:.2f} ms median, {max(times):.2f} ms worst", mend)


def _gateway(settings: Settings, url: str, api_key: str | None) -> Iterator[Finding]:
    """Is a gateway there, is the port free where none is, and who works?"""
    import httpx

    from perdure.client import AccessDenied, Client, ClientError
    from perdure.errors import ConfigurationError
    from perdure.gateway.server import listen
    from perdure.store.base import Finding

    try:
        ready = httpx.get(f"{url}/readyz", timeout=2, trust_env=False)
        ours = "checks" in ready.json()
    except (httpx.HTTPError, ValueError):
        ready, ours = None, False
    if ready is None or not ours:
        yield Finding("gateway", False, f"none answers at {url}", "start `perdure dev`, or name it with --url")
        try:
            listen(settings.host, settings.port, open_to_all=True).close()
            yield Finding("port", True, f"{settings.host}:{settings.port} is free")
        except ConfigurationError as error:
            yield Finding("port", False, str(error), fatal=True)
        return
    ok = ready.status_code == 200
    checks = ", ".join(f"{name} {state}" for name, state in ready.json()["checks"].items())
    yield Finding("gateway", ok, f"{url} answers: {checks}", "" if ok else "look at its log", fatal=not ok)
    with Client(url, api_key, patience_s=2) as client:
        try:
            workers = client.workers()
        except AccessDenied:
            yield Finding("workers", False, "not shown without a key of the role `operate`", "give --api-key")
            return
        except ClientError as error:
            yield Finding("workers", False, str(error), "look at the gateway's log")
            return
    working = [worker for worker in workers if not worker.standby]
    detail = f"{len(working)} work, {len(workers) - len(working)} stand by; tiers " + (
        ", ".join(sorted({worker.tier for worker in workers})) or "none"
    )
    mend = "" if working else "tasks wait until a worker comes: start `perdure worker`"
    yield Finding("workers", bool(working), detail, mend)
