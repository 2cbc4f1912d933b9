"""The documentation is made from the code where it can be, and names nothing that does not exist."""

from __future__ import annotations

import re
import runpy
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from perdure.cli.app import app
from perdure.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
# Variables that are no settings of a deployment: where a client finds its gateway, the demo agent's, and the build's.
OTHER_VARIABLES = {"PERDURE_URL", "PERDURE_API_KEY", "PERDURE_MODEL", "PERDURE_PYTHON", "PERDURE_DEMO_DATA"}
OTHER_VARIABLES |= {"PERDURE_OFFLINE_PACE_S", "PERDURE_BENCH_POSTGRES"}


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def test_generated_parts_are_as_new_as_the_code() -> None:
    """The states, the settings and the commands; `make docs` renews them."""
    generator = runpy.run_path(str(ROOT / "scripts" / "generate_docs.py"))
    assert [name_of(path) for path, now, fresh in generator["renewed"]() if now != fresh] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    broken = [target for target in targets if "://" not in target and not (page.parent / target).exists()]
    # Written by `make bench`, which a fresh clone has not run.
    assert [target for target in broken if not target.endswith("bench/RESULTS.md")] == []


def test_every_page_can_be_reached_from_the_index() -> None:
    reached: set[Path] = set()
    waiting = [ROOT / "docs" / "index.md"]
    while waiting:
        page = waiting.pop()
        if page in reached or not page.exists():
            continue
        reached.add(page)
        links = re.findall(r"\]\(([^)#:]+\.md)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
        waiting += [(page.parent / link).resolve() for link in links]
    assert {name_of(page) for page in (ROOT / "docs").rglob("*.md")} - {name_of(page) for page in reached} == set()


def lines_of_code(page: Path) -> Iterator[str]:
    """Lines in fences and indented blocks, and what stands between backticks."""
    text = page.read_text(encoding="utf-8")
    for fence in re.findall(r"```[a-z]*\n(.*?)```", text, flags=re.DOTALL):
        yield from fence.splitlines()
    yield from (line[4:] for line in text.splitlines() if line.startswith("    "))
    yield from re.findall(r"`([^`\n]+)`", text)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_and_their_flags_exist(page: Path) -> None:
    wrong = []
    for line in lines_of_code(page):
        found = re.match(r"(?:\$ )?(?:\S*/)?perdure ([a-z]+)(.*)", line.strip())
        if found is None:
            continue
        command = app.commands.get(found[1])
        if command is None:
            wrong.append(line)
            continue
        known = {flag for parameter in command.params for flag in (*parameter.opts, *parameter.secondary_opts)}
        known |= {"--help", "-h", "--debug"}
        words = shlex.split(found[2].split("#")[0].replace("…", ""), posix=True)
        wrong += [line for word in words if word.startswith("--") and word.partition("=")[0] not in known]
    assert wrong == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_make_targets_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    named = {
        word
        for line in lines_of_code(page)
        if (found := re.match(r"(?:\$ )?make ((?:[a-z]+ ?)+)", line.strip()))
        for word in found[1].split()
    }
    assert named - targets == set()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_variables_exist(page: Path) -> None:
    named = set(re.findall(r"PERDURE_[A-Z][A-Z_]*[A-Z]", page.read_text(encoding="utf-8")))
    known = {f"PERDURE_{name.upper()}" for name in Settings.__struct_fields__}
    assert named - known - {f"{name}_FILE" for name in known} - OTHER_VARIABLES == set()


def test_the_way_of_a_task_leads_through_files_that_exist() -> None:
    text = (ROOT / "docs/explanation/the-way-of-a-task.md").read_text(encoding="utf-8")
    names = set(re.findall(r"`([\w/.]+(?:\.py|\.lua|/))`", text))
    files = {str(path.relative_to(ROOT / "src/perdure")) for path in (ROOT / "src/perdure").rglob("*")}
    bare = {path.rpartition("/")[2] for path in files}
    assert len(names) > 20
    assert {name for name in names - {"src/perdure/"} if name.rstrip("/") not in files | bare} == set()


def test_every_decision_is_listed() -> None:
    folder = ROOT / "docs" / "decisions"
    listed = (folder / "README.md").read_text(encoding="utf-8")
    assert [page.name for page in folder.glob("[0-9]*.md") if page.name not in listed] == []


def test_the_lock_file_names_no_host_and_has_a_hash_for_everything() -> None:
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    assert re.findall(r"[a-z]+://\S+|^--?\w.*", lock, flags=re.MULTILINE) == []
    packages = re.findall(r"^([\w.-]+)==[^\n]+(?:\n    --hash=sha256:[0-9a-f]{64}[ \\]*)+", lock, flags=re.MULTILINE)
    assert len(packages) == len(re.findall(r"^\S+==", lock, flags=re.MULTILINE)) > 50


def test_every_make_target_says_what_it_does() -> None:
    makefile = (ROOT / "Makefile").read_text()
    phony = set(re.findall(r"^\.PHONY: (.+)$", makefile, flags=re.MULTILINE)[0].split()) - {"bootstrap"}
    assert phony == set(re.findall(r"^([a-z]+):.*## \S", makefile, flags=re.MULTILINE))


def test_help_of_the_group_names_only_commands_that_exist() -> None:
    text = app.get_help(click.Context(app, info_name="perdure"))
    assert set(re.findall(r"^  perdure ([a-z]+)", text, flags=re.MULTILINE)) <= set(app.commands)
