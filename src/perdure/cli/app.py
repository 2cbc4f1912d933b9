"""The command `perdure` with all its subcommands, in the order in which a newcomer meets them."""

from __future__ import annotations

import click

from perdure.cli.answer import answer
from perdure.cli.cancel import cancel
from perdure.cli.demo import demo
from perdure.cli.doctor import doctor
from perdure.cli.init import init
from perdure.cli.serve import dev, gateway, worker
from perdure.cli.submit import submit
from perdure.cli.watch import watch

EPILOG = """\b
A first round:
  perdure demo                              see a worker die and the answers come all the same
  perdure init my-agent && cd my-agent      a small agent of your own
  perdure dev                               run it here: store, gateway, workers in one command
  perdure submit agent "some text" --watch  ask it, from another terminal

Every command has its own --help. Settings come from a flag, else a PERDURE_* variable, else perdure.toml."""


class InOrder(click.Group):
    """Lists its commands in the order in which they were added."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(cls=InOrder, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="perdure", message="perdure %(version)s")
@click.option("--debug", is_flag=True, expose_value=False, help="Show the traceback of an error; may stand anywhere.")
def app() -> None:
    """Durable LangGraph agents.

    A task is accepted at once, every step is checkpointed, its thoughts stream to whoever listens, and when the
    machine that runs it dies, another goes on where it stopped.
    """


for command in (demo, init, dev, submit, watch, answer, cancel, doctor, gateway, worker):
    app.add_command(command)
