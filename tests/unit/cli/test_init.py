"""`perdure init` writes an agent that works, and overwrites nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from perdure.cli.app import app
from perdure.cli.outcome import run
from perdure.graph.registry import GraphRegistry


@pytest.mark.anyio
async def test_the_agent_runs_offline_and_under_plain_langgraph(tmp_path: Path) -> None:
    assert run(app, ["init", str(tmp_path / "mine")]) == 0
    assert {path.name for path in (tmp_path / "mine").iterdir()} == {
        "langgraph.json",
        "agent.py",
        "README.md",
        ".gitignore",
    }
    loaded = await GraphRegistry.from_file(tmp_path / "mine" / "langgraph.json").load("agent")
    result = await loaded.graph.ainvoke({"text": "One fox. Two foxes, three foxes here!"})
    assert result == {
        "report": "Most frequent: foxes (2), three (1), here (1). Longest sentence: 'Two foxes, three foxes here'."
    }


def test_nothing_is_overwritten_and_nothing_is_half_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "agent.py").write_text("mine")
    assert run(app, ["init", str(tmp_path)]) == 1
    assert "already has agent.py; nothing was written" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["agent.py"]
    assert (tmp_path / "agent.py").read_text() == "mine"
