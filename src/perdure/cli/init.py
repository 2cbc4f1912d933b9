"""`perdure init`: write a small working agent folder."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Final

import click

from perdure.cli.outcome import Failed

FILES: Final = {
    "langgraph.json": "langgraph.json",
    "agent.py": "agent.py",
    "README.md": "README.md",
    # Under its own name it would rule over the folder it is kept in.
    ".gitignore": "gitignore",
}


@click.command()
@click.argument("folder", default=".", type=click.Path(file_okay=False, path_type=Path))
def init(folder: Path) -> None:
    """Write a small working agent into FOLDER (default: this one).

    It runs at once and offline with `perdure dev`. Nothing that is there already is overwritten.
    """
    taken = [name for name in FILES if (folder / name).exists()]
    if taken:
        raise Failed(f"{folder} already has {', '.join(taken)}; nothing was written. Choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    template = files("perdure.cli") / "template"
    for name, source in FILES.items():
        (folder / name).write_text((template / source).read_text(encoding="utf-8"), encoding="utf-8")
    enter = "" if folder.resolve() == Path.cwd() else f"cd {folder} && "
    click.echo(f"{folder}: {', '.join(FILES)}")
    click.echo(f"run it:  {enter}perdure dev")
    click.echo('ask it:  perdure submit agent "some text to read" --watch')
