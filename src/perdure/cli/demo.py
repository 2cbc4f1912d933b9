"""`perdure demo`: the main job on real data, with a worker killed in the middle of a step, and the proof."""

from __future__ import annotations

from pathlib import Path

import click

from perdure.cli.serve import DATA_DIR


@click.command()
@click.option("--question", "-q", help="Ask this, instead of the demo's four questions.")
@click.option("--keep", is_flag=True, help="Leave it running until Ctrl-C, and print its address.")
@DATA_DIR
@click.option("--picture", type=click.Path(dir_okay=False, path_type=Path), help="Also save the screen as SVG.")
def demo(question: str | None, keep: bool, data_dir: str | None, picture: Path | None) -> None:
    """Ask an agent about 336,776 flights, kill its worker in mid-step, and see every answer come.

    Starts `perdure dev` in a folder of its own (a Valkey with fsync on, gateway, workers, a standby), submits several
    questions at once, shows the agents' thoughts live, sends SIGKILL to a worker in the middle of a step, and proves
    from the event logs and the checkpoints that nothing was lost, doubled or run twice. Exit code 0 only if all that
    holds. At a terminal, the key `k` kills the working worker once more.

    Without PERDURE_MODEL the demo agent works by rules, offline; it is no language model, and says so.
    """
    import asyncio

    from perdure.cli.demo_run import DemoRun

    run = DemoRun(Path(data_dir or ".perdure"), question, keep=keep, picture=picture)
    raise click.exceptions.Exit(asyncio.run(run.run()))
