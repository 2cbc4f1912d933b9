"""`perdure dev`, `perdure gateway`, `perdure worker`: the commands that serve until they are told to stop."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from perdure.cli.outcome import Failed

if TYPE_CHECKING:
    import asyncio

    from perdure.settings import Settings

Command = TypeVar("Command", bound=Callable[..., object])


def options(*chosen: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Several options as one decorator, shown in this order."""

    def decorate(command: Command) -> Command:
        for option in reversed(chosen):
            command = option(command)
        return command

    return decorate


CONFIG = click.option("--config", metavar="FILE", help="The file that names the graphs.  [default: langgraph.json]")
HOST = click.option("--host", help="Address to listen on; any but the loopback needs API keys.  [default: 127.0.0.1]")
PORT = click.option("--port", type=int, help="Port to listen on; 0 takes a free one.  [default: 2024]")
STORE = click.option("--store", metavar="URL", help="The Valkey or Redis that keeps everything: valkey://HOST:PORT.")
BROKER = click.option("--broker", metavar="URL", help="Where doorbells ring.  [default: the store]")
WORKERS = click.option("--workers", type=int, help="Worker processes.  [default: 3]")
STANDBY = click.option("--standby", type=int, help="How many of them only take over from lost ones.  [default: 1]")
SLOTS = click.option("--slots", type=int, help="Tasks that one worker process runs at once.  [default: 4]")
TIER = click.option("--tier", help="The tier that these workers serve.  [default: cpu]")
INSECURE = click.option("--insecure", is_flag=True, default=None, help="Listen on any address without keys.")
HEALTH_PORT = click.option("--health-port", type=int, help="Answer /livez, /readyz and /metrics on this port.")
UNSAFE_STORE = click.option(
    "--unsafe-store", is_flag=True, default=None, help="Start although the store could lose accepted tasks."
)
LOGS = options(
    click.option("--log-level", help="debug, info, warning or error.  [default: info]"),
    click.option("--log-json", is_flag=True, default=None, help="Logs as one JSON object a line."),
    click.option("--settings", "settings_file", metavar="FILE", help="Settings file.  [default: ./perdure.toml]"),
)
DATA_DIR = click.option("--data-dir", metavar="DIR", help="Where everything of its own is kept.  [default: .perdure]")


@click.command()
@options(HOST, PORT, CONFIG, DATA_DIR, WORKERS, STANDBY, SLOTS, STORE, INSECURE, LOGS)
def dev(settings_file: str | None, **flags: object) -> None:
    """Everything on this machine in one command.

    Starts a Valkey of its own (with fsync on every write; not with --store), the gateway, the worker processes and
    the rescuer, for the graphs of the langgraph.json in this folder. Prints one line on standard output when it is
    ready; logs go to standard error. Ctrl-C drains: running steps are finished and checkpointed, then it leaves, and
    the next `perdure dev` in this folder goes on with what was left. A second Ctrl-C stops at once.

    \b
    Then, from another terminal:
      perdure submit GRAPH "a question" --watch
    """
    from perdure import assembly

    settings = load(flags, settings_file)
    require_config(settings)
    serve(settings, "dev", lambda stop: assembly.run_dev(settings, say_ready, stop))


@click.command()
@options(HOST, PORT, CONFIG, STORE, BROKER, INSECURE, UNSAFE_STORE, LOGS)
def gateway(settings_file: str | None, **flags: object) -> None:
    """The HTTP side alone: accepts tasks, streams events.

    Needs a store (--store or PERDURE_STORE) that it shares with the workers. Start any number, behind any balancer.
    """
    from perdure import assembly

    settings = load(flags, settings_file)
    require_store(settings, "gateway")
    require_config(settings)
    serve(settings, "gateway", lambda stop: assembly.run_gateway(settings, say_ready, stop))


@click.command()
@options(TIER, SLOTS, WORKERS, STANDBY, HEALTH_PORT, CONFIG, STORE, BROKER, UNSAFE_STORE, LOGS)
def worker(settings_file: str | None, **flags: object) -> None:
    """Worker processes of one tier, kept alive by a supervisor, with a rescuer beside them.

    Needs a store (--store or PERDURE_STORE) that it shares with the gateway. SIGTERM drains: running steps are
    finished and checkpointed, and the tasks go to other workers.
    """
    from perdure import assembly

    settings = load(flags, settings_file)
    require_store(settings, "worker")
    require_config(settings)

    def on_ready() -> None:
        click.echo(f"Perdure's workers of tier {settings.tier} are ready")

    serve(settings, "worker supervisor", lambda stop: assembly.run_worker(settings, on_ready, stop))


def load(flags: dict[str, object], settings_file: str | None) -> Settings:
    """The settings under these flags. Raises ConfigurationError."""
    from perdure.settings import Settings

    return Settings.load(flags, file=Path(settings_file) if settings_file else None)


def require_store(settings: Settings, command: str) -> None:
    """Refuse early: with a store of its own, this command would answer nobody."""
    if settings.store is None:
        raise click.UsageError(
            f"`perdure {command}` needs the store that gateway and workers share: set PERDURE_STORE or --store, "
            "for instance valkey://127.0.0.1:6379. Only `perdure dev` brings its own"
        )


def require_config(settings: Settings) -> None:
    """Refuse before anything is started, and say how to get such a file."""
    if not Path(settings.config).is_file():
        raise Failed(
            f"there is no {settings.config} here, the file that names the graphs to serve. Go to the folder of a "
            "LangGraph project, name the file with --config, or make a small agent with `perdure init my-agent`"
        )


def say_ready(url: str) -> None:
    """The one line on standard output."""
    click.echo(f'Perdure is ready at {url} · try: perdure submit GRAPH "a question" --watch · Ctrl-C drains')


def serve(settings: Settings, who: str, start: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    """Run until SIGINT or SIGTERM; the second one stops at once, in the middle of a step."""
    import asyncio
    import signal

    import uvloop

    from perdure.telemetry.logs import configure_logs

    configure_logs(settings.log_level, as_json=settings.log_json, who=who)

    async def until_told() -> None:
        stop = asyncio.Event()
        running = asyncio.ensure_future(start(stop))

        def on_signal() -> None:
            if not stop.is_set():
                click.echo("Draining: running steps are finished and checkpointed. Again to stop at once.", err=True)
                stop.set()
            else:
                click.echo("Stopping at once; what was running goes on from its last checkpoint.", err=True)
                running.cancel()

        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, on_signal)
        try:
            await running
        except asyncio.CancelledError:
            raise click.exceptions.Exit(1) from None

    uvloop.run(until_told())
