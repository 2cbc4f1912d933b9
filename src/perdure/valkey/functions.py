"""Server-side functions: Lua files, one verb each, loaded as one library of Valkey Functions.

The library's name carries a digest of its source, so that two versions of Perdure can use one server side by side,
and a call never meets another version's code. The files share `prelude.lua` and the table of transitions.
"""

from __future__ import annotations

import hashlib
import re
from importlib.resources import files
from importlib.resources.abc import Traversable

from perdure.lifecycle.transitions import LIVE, TRANSITIONS, Status


class FunctionLibrary:
    """The functions of one package. `name(verb)` is what to FCALL, `source` what to FUNCTION LOAD."""

    def __init__(self, title: str, verbs: dict[str, str], shared: str = "") -> None:
        prelude = _transitions_in_lua() + (files("perdure.valkey") / "prelude.lua").read_text() + shared
        bodies = "".join(
            f"\ndo\nlocal function verb(KEYS, ARGV)\n{text}\nend\nredis.register_function{{ "
            f"function_name = '@NAME@_{verb}', callback = verb, flags = {{ {_flags(text)} }} }}\nend\n"
            for verb, text in sorted(verbs.items())
        )
        digest = hashlib.sha256((prelude + bodies).encode()).hexdigest()[:10]
        self._name = f"{title}_{digest}"
        self.source = f"#!lua name={self._name}\n" + prelude + bodies.replace("@NAME@", self._name)

    @classmethod
    def of(cls, title: str, folder: Traversable) -> FunctionLibrary:
        """Every `*.lua` of a folder; the file's name is the verb. `_shared.lua` stands before all of them."""
        texts = {item.name[:-4]: item.read_text() for item in folder.iterdir() if item.name.endswith(".lua")}
        shared = texts.pop("_shared", "")
        return cls(title, texts, shared)

    def name(self, verb: str) -> str:
        return f"{self._name}_{verb}"


def _flags(text: str) -> str:
    """What a verb's header says in a line `-- FLAGS: no-writes, allow-oom`. A full server must still let tasks be
    read, ended and deleted."""
    found = re.search(r"^-- FLAGS: (.+)$", text, re.MULTILINE)
    return ", ".join(f"'{flag.strip()}'" for flag in found[1].split(",")) if found else ""


def _transitions_in_lua() -> str:
    rows = []
    for status in Status:
        cells = ", ".join(f"{verb} = '{after}'" for (before, verb), after in TRANSITIONS.items() if before is status)
        rows.append(f"  {status} = {{ {cells} }},")
    live = ", ".join(f"{status} = true" for status in Status if status in LIVE)
    return "local TRANSITIONS = {\n" + "\n".join(rows) + "\n}\nlocal LIVE = { " + live + " }\n"
