"""The commands as a person uses them: real processes, a real store, no network."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

PERDURE = (sys.executable, "-m", "perdure")
TEXT = "Foxes run. Two foxes run fast!"
# Enough for a machine that runs other tests at the same time.
SOON_S = 60


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PERDURE_")}
    return {**kept, **more}


class Dev:
    """A running `perdure dev`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "dev.err"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*PERDURE, "dev", "--port", "0", "--workers", "2"],
                cwd=folder,
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self.process.stdout is not None
        self.line = self.process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+", self.line)
        assert found is not None, self.log.read_text()
        self.url = found[0]

    def perdure(self, *arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        return perdure(self.folder, *arguments, stdin=stdin, PERDURE_URL=self.url)

    def stop(self) -> str:
        """Drain it; returns the rest of its standard output."""
        self.process.send_signal(signal.SIGTERM)
        rest, _ = self.process.communicate(timeout=SOON_S)
        return rest


def perdure(
    folder: Path, *arguments: str, stdin: str | None = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PERDURE, *arguments],
        cwd=folder,
        env=environment(**variables),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=SOON_S,
        check=False,
    )


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dev]:
    folder = tmp_path_factory.mktemp("agent")
    assert perdure(folder, "init").returncode == 0
    running = Dev(folder)
    try:
        yield running
    finally:
        if running.process.poll() is None:
            running.stop()


def test_ready_is_one_line_with_the_address(dev: Dev) -> None:
    assert dev.line.startswith(f"Perdure is ready at {dev.url} ")


def test_a_task_is_followed_to_its_result(dev: Dev) -> None:
    done = dev.perdure("submit", "agent", TEXT, "--watch")
    assert done.returncode == 0, done.stderr
    assert "[THOUGHT] count_words" in done.stdout
    assert "[ANSWER] write" in done.stdout
    assert "[END] succeeded" in done.stdout
    assert "Most frequent: foxes (2), fast (1)" in done.stdout


def test_submit_returns_at_once_and_watch_follows_later_also_in_json(dev: Dev) -> None:
    done = dev.perdure("submit", "agent", "-", "--json", "--thread", "mine", stdin=json.dumps({"text": TEXT}))
    task = json.loads(done.stdout)
    assert (task["thread_id"], task["stored"]) == ("mine", "fsync")
    lines = [json.loads(line) for line in dev.perdure("watch", task["task_id"], "--json").stdout.splitlines()]
    assert [line["seq"] for line in lines[:-1]] == list(range(1, len(lines)))
    assert (lines[-1]["type"], lines[-1]["status"]) == ("end", "succeeded")


def test_watch_shows_only_the_tags_asked_for(dev: Dev) -> None:
    task = json.loads(dev.perdure("submit", "agent", TEXT, "--json").stdout)["task_id"]
    shown = dev.perdure("watch", task, "--tags", "ANSWER").stdout.splitlines()
    assert shown[0].startswith("[ANSWER] write")
    assert shown[1].startswith("[END] succeeded")


def test_the_same_idempotency_key_makes_one_task(dev: Dev) -> None:
    twice = [dev.perdure("submit", "agent", TEXT, "--json", "--idempotency-key", "k1").stdout for _ in range(2)]
    assert json.loads(twice[0])["task_id"] == json.loads(twice[1])["task_id"]


def test_a_failed_task_gives_exit_code_1(dev: Dev) -> None:
    done = dev.perdure("submit", "agent", '{"text": 3}', "--watch")
    assert done.returncode == 1
    assert "[END] failed" in done.stdout


def test_cancel_leaves_a_finished_task_as_it_is(dev: Dev) -> None:
    task = json.loads(dev.perdure("submit", "agent", TEXT, "--json").stdout)["task_id"]
    assert dev.perdure("watch", task).returncode == 0
    assert dev.perdure("cancel", task).stdout == f"{task} is succeeded\n"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("submit", "nothing", "{}"), 1, "there is no graph 'nothing'"),
        (("submit", "agent", "{broken"), 2, "begins like JSON but is none"),
        (("submit", "agent", "x", "--thread", "a/b"), 1, "a/b"),
        (("watch", "nothing"), 1, "there is no task 'nothing'"),
        (("cancel", "nothing"), 1, "there is no task 'nothing'"),
        (("answer", "nothing", "yes"), 1, "there is no task 'nothing'"),
        (("submit", "agent"), 2, "Missing argument"),
        (("submit", "agent", "x", "--url", "localhost:1"), 2, "must begin with http://"),
    ],
)
def test_a_mistake_is_told_without_a_traceback(dev: Dev, arguments: Sequence[str], code: int, words: str) -> None:
    done = dev.perdure(*arguments)
    assert done.returncode == code
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_doctor_finds_a_running_deployment_well(dev: Dev) -> None:
    done = dev.perdure("doctor")
    assert done.returncode == 0, done.stdout
    for words in ("graph agent", "store ok", "1 work, 1 stand by", "fsync of 4 KiB", "All well"):
        assert words in done.stdout


def test_a_second_dev_in_the_same_folder_is_refused(dev: Dev) -> None:
    done = perdure(dev.folder, "dev", "--port", "0")
    assert done.returncode == 1
    assert "another Perdure uses the data folder" in done.stderr
    assert done.stdout == ""


def test_a_port_in_use_is_told_before_anything_is_started(dev: Dev, tmp_path: Path) -> None:
    perdure(tmp_path, "init")
    done = perdure(tmp_path, "dev", "--port", dev.url.rpartition(":")[2])
    assert done.returncode == 1
    assert "choose another with --port" in done.stderr
    assert not (tmp_path / ".perdure").exists()


def test_sigterm_leaves_no_process_and_a_restart_has_all_tasks(dev: Dev) -> None:
    """Last in this file: it ends the deployment that the others share."""
    task = json.loads(dev.perdure("submit", "agent", TEXT, "--json").stdout)["task_id"]
    children = descendants(dev.process.pid)
    assert len(children) >= 3, "two workers and a Valkey"
    assert dev.stop() == ""
    assert dev.process.returncode == 0, dev.log.read_text()
    assert [pid for pid in children if alive(pid)] == []
    again = Dev(dev.folder)
    try:
        assert again.perdure("watch", task).returncode == 0
    finally:
        again.stop()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("dev",), 1, "perdure init my-agent"),
        (("gateway",), 2, "set PERDURE_STORE or --store"),
        (("worker",), 2, "set PERDURE_STORE or --store"),
        (("dev", "--workers", "0"), 1, "workers"),
        (("dev", "--settings", "none.toml"), 1, "there is no settings file none.toml"),
        (("dev", "--host", "0.0.0.0"), 1, "perdure init my-agent"),
        (("frobnicate",), 2, "No such command 'frobnicate'"),
    ],
)
def test_a_wrong_start_says_how_to_mend_it(tmp_path: Path, arguments: Sequence[str], code: int, words: str) -> None:
    done = perdure(tmp_path, *arguments)
    assert (done.returncode, words in done.stderr, "Traceback" in done.stderr) == (code, True, False), done.stderr


def test_an_open_address_without_keys_is_refused(tmp_path: Path) -> None:
    perdure(tmp_path, "init")
    done = perdure(tmp_path, "dev", "--host", "0.0.0.0", "--port", "0")
    assert done.returncode == 1
    assert "PERDURE_API_KEYS" in done.stderr


def test_a_graph_that_does_not_import_is_shown_with_its_authors_traceback(tmp_path: Path) -> None:
    perdure(tmp_path, "init")
    (tmp_path / "agent.py").write_text("import nonsense_that_is_not_there\n")
    done = perdure(tmp_path, "dev", "--port", "0", "--workers", "1", "--standby", "0")
    assert done.returncode == 1
    assert "No module named 'nonsense_that_is_not_there'" in done.stderr
    assert "agent.py" in done.stderr
    checked = perdure(tmp_path, "doctor", "--url", f"http://127.0.0.1:{unused_port()}", "--port", "0")
    assert checked.returncode == 1
    assert "nonsense_that_is_not_there" in checked.stdout


def test_doctor_names_a_store_that_does_not_answer(tmp_path: Path) -> None:
    perdure(tmp_path, "init")
    store = f"valkey://127.0.0.1:{unused_port()}"
    done = perdure(tmp_path, "doctor", "--store", store, "--port", "0", PERDURE_URL="http://127.0.0.1:9")
    assert done.returncode == 1
    assert re.search(r"XX +store", done.stdout), done.stdout


def test_nobody_at_the_address_is_said_within_seconds(tmp_path: Path) -> None:
    done = perdure(tmp_path, "submit", "agent", "{}", PERDURE_URL=f"http://127.0.0.1:{unused_port()}")
    assert done.returncode == 1
    assert "no gateway answered" in done.stderr


def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def descendants(pid: int) -> list[int]:
    """All processes below one, by `ps`, which Linux and macOS have."""
    table = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    parents = {int(child): int(parent) for child, parent in (line.split() for line in table.splitlines())}
    found, row = [], [pid]
    while row:
        row = [child for child, parent in parents.items() if parent in row]
        found += row
    return found


def alive(pid: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False
