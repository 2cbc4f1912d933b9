"""Writes the parts of the documentation that are made from the code; with --check it only says whether they are fresh.

A generated part stands between `<!-- generated: NAME -->` and `<!-- end of NAME -->`; what is around it is written by
hand.
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import msgspec

from perdure import settings
from perdure.cli.app import app
from perdure.lifecycle import transitions

ROOT = Path(__file__).resolve().parents[1]


def states() -> str:
    """The diagram and the table of all transitions."""
    lines = ["```mermaid", transitions.mermaid().rstrip(), "```", "", "| from | what happens | to |", "|---|---|---|"]
    lines += [f"| {before} | {verb} | {after} |" for (before, verb), after in transitions.TRANSITIONS.items()]
    return "\n".join(lines)


def settings_table() -> str:
    """Every setting with its variable, default and meaning."""
    told = _field_docs()
    lines = ["| setting | variable | default | meaning |", "|---|---|---|---|"]
    for field in msgspec.structs.fields(settings.Settings):
        variable = f"`PERDURE_{field.name.upper()}`" if field.name != "graphs" else "only in the file"
        if field.name in settings.SECRETS:
            variable += f" or `PERDURE_{field.name.upper()}_FILE`"
        default = "" if field.default is msgspec.NODEFAULT else field.default
        if field.default_factory is not msgspec.NODEFAULT:
            default = "empty"
        shown = "none" if default is None else str(default).lower() if isinstance(default, bool) else default
        lines.append(f"| `{field.name}` | {variable} | {shown} | {told[field.name]} |")
    return "\n".join(lines)


def commands() -> str:
    """Each command's own help."""
    wide = {"terminal_width": 100, "max_content_width": 100}
    context = click.Context(app, info_name="perdure", **wide, **app.context_settings)  # type: ignore[arg-type]
    parts = []
    for name in app.list_commands(context):
        command = app.commands[name]
        inner = click.Context(command, info_name=name, parent=context, **wide)  # type: ignore[arg-type]
        text = "\n".join(line.rstrip() for line in command.get_help(inner).splitlines())
        parts.append(f"## perdure {name}\n\n```text\n{text}\n```")
    return "\n\n".join(parts)


PARTS = {
    "states": (ROOT / "docs/reference/states.md", states),
    "settings": (ROOT / "docs/reference/settings.md", settings_table),
    "commands": (ROOT / "docs/reference/command-line.md", commands),
}


def renewed() -> Iterator[tuple[Path, str, str]]:
    """Each file with its present text and the text that it should have."""
    for name, (path, make) in PARTS.items():
        begin, end = f"<!-- generated: {name} -->", f"<!-- end of {name} -->"
        now = path.read_text(encoding="utf-8")
        if begin not in now or end not in now:
            raise SystemExit(f"{path.relative_to(ROOT)} lacks the lines {begin} and {end}")
        before, after = now.partition(begin)[0], now.partition(end)[2]
        fresh = f"{before}{begin}\n{make()}\n{end}{after}"
        yield path, now, fresh


def _field_docs() -> dict[str, str]:
    """The string under each field of Settings."""
    tree = ast.parse(inspect.getsource(settings))
    found: dict[str, str] = {}
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == "Settings":
            for field, text in zip(node.body, node.body[1:], strict=False):
                if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
                    assert isinstance(field.target, ast.Name)
                    found[field.target.id] = " ".join(str(ast.literal_eval(text.value)).split())
    return found


def main() -> int:
    """0 if everything is fresh now."""
    stale = [(path, fresh) for path, now, fresh in renewed() if now != fresh]
    if "--check" in sys.argv:
        for path, _ in stale:
            sys.stderr.write(f"{path.relative_to(ROOT)} is older than the code; run `make docs`\n")
        return 1 if stale else 0
    for path, fresh in stale:
        path.write_text(fresh, encoding="utf-8")
        sys.stderr.write(f"wrote {path.relative_to(ROOT)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
