"""Settings: which source wins, what is refused and in which words, and that secrets never show."""

from __future__ import annotations

from pathlib import Path

import pytest

from perdure.errors import ConfigurationError
from perdure.settings import Settings

SECRET = "hunter2-do-not-show"


def load(environ: dict[str, str] | None = None, file: Path | None = None, **flags: object) -> Settings:
    return Settings.load(flags, environ or {}, file)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No perdure.toml but the test's own."""
    monkeypatch.chdir(tmp_path)


def toml(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "perdure.toml"
    path.write_text(text)
    return path


def test_a_flag_wins_over_a_variable_over_the_file_over_the_default(tmp_path: Path) -> None:
    toml(tmp_path, "port = 1\nslots = 2\ntier = 'gpu'\n")
    found = load({"PERDURE_PORT": "3", "PERDURE_SLOTS": "4"}, port=5, slots=None)
    assert (found.port, found.slots, found.tier, found.workers) == (5, 4, "gpu", 3)


def test_an_empty_variable_counts_as_not_given() -> None:
    assert load({"PERDURE_PORT": ""}).port == 2024


def test_text_becomes_what_the_setting_is() -> None:
    found = load(
        {
            "PERDURE_LEASE_TTL_S": "2.5",
            "PERDURE_INSECURE": "true",
            "PERDURE_RESCUER": "0",
            "PERDURE_HOSTS": "a.example, b.example,",
        }
    )
    assert found.lease_ttl_ms == 2_500
    assert (found.insecure, found.rescuer, found.hosts) == (True, False, ["a.example", "b.example"])


def test_graphs_of_the_file_name_their_tier(tmp_path: Path) -> None:
    toml(tmp_path, '[graphs.train]\ntier = "gpu"\n')
    assert load().graphs == {"train": {"tier": "gpu"}}


@pytest.mark.parametrize("name", ["store", "broker", "api_keys"])
def test_a_secret_is_also_read_from_a_file(tmp_path: Path, name: str) -> None:
    path = tmp_path / "secret"
    path.write_text(f"{SECRET}\n")
    assert getattr(load({f"PERDURE_{name.upper()}_FILE": str(path)}), name) == SECRET


def test_a_secret_given_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="PERDURE_STORE and PERDURE_STORE_FILE"):
        load({"PERDURE_STORE": "valkey://x", "PERDURE_STORE_FILE": str(tmp_path / "x")})


def test_a_secret_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"PERDURE_API_KEYS_FILE: cannot read .*gone: No such file"):
        load({"PERDURE_API_KEYS_FILE": str(tmp_path / "gone")})


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({"PERDURE_PORT": "many"}, ["PERDURE_PORT", "'many'"]),
        ({"PERDURE_PORT": "70000"}, ["port", "70000", "0 to 65535"]),
        ({"PERDURE_PORT": "-1"}, ["port", "-1"]),
        ({"PERDURE_WORKERS": "0"}, ["workers", "at least 1"]),
        ({"PERDURE_SLOTS": "2000"}, ["slots", "1 to 1024"]),
        ({"PERDURE_STANDBY": "-2"}, ["standby", "0 or more"]),
        ({"PERDURE_LEASE_TTL_S": "0.5"}, ["lease_ttl_s", "at least 1 second"]),
        ({"PERDURE_LEASE_TTL_S": "nan"}, ["lease_ttl_s"]),
        ({"PERDURE_DRAIN_TIMEOUT_S": "-1"}, ["drain_timeout_s", "0 or more"]),
        ({"PERDURE_LOG_LEVEL": "loud"}, ["log_level", "'loud'", "debug"]),
        ({"PERDURE_INSECURE": "perhaps"}, ["PERDURE_INSECURE", "'perhaps'"]),
    ],
)
def test_a_bad_variable_is_named_with_its_value_and_the_mend(environ: dict[str, str], words: list[str]) -> None:
    with pytest.raises(ConfigurationError) as refused:
        load(environ)
    for word in words:
        assert word in str(refused.value)


def test_a_bad_flag_is_named() -> None:
    with pytest.raises(ConfigurationError, match="port"):
        load(port="many")
    with pytest.raises(ConfigurationError, match="no_such_setting"):
        load(no_such_setting=1)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("prot = 1\n", ["'prot'", "unknown setting"]),
        ("port = 'many'\n", ["port"]),
        ("port = \n", ["perdure.toml"]),
        ("[graphs]\ntrain = 'gpu'\n", ["graphs"]),
    ],
)
def test_a_bad_file_is_named_with_its_fault(tmp_path: Path, text: str, words: list[str]) -> None:
    toml(tmp_path, text)
    with pytest.raises(ConfigurationError) as refused:
        load()
    for word in words:
        assert word in str(refused.value)


def test_a_file_that_was_asked_for_must_be_there(tmp_path: Path) -> None:
    assert load().port == 2024
    with pytest.raises(ConfigurationError, match=r"no settings file .*other\.toml"):
        load(file=tmp_path / "other.toml")


def test_a_file_that_is_not_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "perdure.toml").write_bytes(b"port = 1 # \xff\xfe")
    with pytest.raises(ConfigurationError, match=r"perdure\.toml"):
        load()


def test_secrets_never_show_in_an_error_or_a_log_line(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text(SECRET)
    faults = []
    for environ, flags in (
        ({"PERDURE_STORE": f"valkey://:{SECRET}@x", "PERDURE_PORT": "many"}, {}),
        ({"PERDURE_API_KEYS": SECRET, "PERDURE_WORKERS": "0"}, {}),
        ({"PERDURE_API_KEYS_FILE": str(path), "PERDURE_API_KEYS": SECRET}, {}),
        ({}, {"store": [SECRET]}),
        ({}, {"api_keys": {"key": SECRET}}),
    ):
        with pytest.raises(ConfigurationError) as refused:
            load(environ, **flags)  # type: ignore[arg-type]
        faults.append(str(refused.value))
    assert not any(SECRET in fault for fault in faults)
    held = load(store=f"valkey://:{SECRET}@x", broker=f"valkey://:{SECRET}@y", api_keys=SECRET)
    assert SECRET not in repr(held)
    assert SECRET not in f"{held}"


def test_at_least_one_worker_takes_new_tasks() -> None:
    assert load(workers=3, standby=1).working == 2
    assert load(workers=1, standby=1).working == 1
    assert load(workers=2, standby=5).working == 1
