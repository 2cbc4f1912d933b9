"""Addresses of stores: every form that is accepted, every fault named, no password shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from perdure.errors import ConfigurationError
from perdure.valkey.connection import Address


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("valkey://", Address()),
        ("valkey://db.example", Address(host="db.example")),
        ("redis://db.example:7000/3", Address(host="db.example", port=7000, database=3)),
        ("valkey://db.example?db=4", Address(host="db.example", database=4)),
        ("valkeys://db.example", Address(host="db.example", tls=True)),
        ("rediss://db.example?verify=no", Address(host="db.example", tls=True, tls_verify=False)),
        ("valkey://me:p%40ss%2F@db.example", Address(host="db.example", username="me", password="p@ss/")),
        ("valkey://:p@[::1]:7000", Address(host="::1", port=7000, password="p")),
        ("unix:///run/valkey.sock", Address(path="/run/valkey.sock")),
        ("unix://:p@/run/valkey.sock?db=2", Address(path="/run/valkey.sock", password="p", database=2)),
        ("unix:///run/a%20b%23c", Address(path="/run/a b#c")),
    ],
)
def test_a_url_is_read(url: str, address: Address) -> None:
    assert Address.parse(url) == address


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://:hunter2@x", "valkey://HOST:PORT"),
        ("", "valkey://HOST:PORT"),
        ("/run/valkey.sock", "unix:///path/to/socket"),
        ("valkey://:hunter2@x:port", "must be numbers"),
        ("valkey://:hunter2@x:99999", "must be numbers"),
        ("valkey://:hunter2@x/two", "must be numbers"),
        ("valkey://:hunter2@x?db=two", "must be numbers"),
        ("unix://:hunter2@", "names no socket"),
        ("valkey://:hunter2@[::1", "valkey://HOST:PORT"),
    ],
)
def test_a_faulty_url_is_refused_with_the_mend_and_without_the_password(url: str, words: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        Address.parse(url)
    assert words in str(refused.value)
    assert "hunter2" not in str(refused.value)


def test_a_password_never_shows_in_an_address() -> None:
    for address in (Address.parse("valkeys://me:hunter2@x:1"), Address.parse("unix://:hunter2@/run/x")):
        assert "hunter2" not in f"{address} {address!r}"


@pytest.mark.parametrize("folder", ["a b", "a#b", "a?b", "a%41b", "é", "a:b@c"])
def test_an_address_written_as_a_url_is_read_as_itself(folder: str, tmp_path: Path) -> None:
    address = Address(path=str(tmp_path / folder / "valkey.sock"), password="p/@:?#%41")
    assert Address.parse(address.url) == address
    there = Address(host="127.0.0.1", port=7000, password="p/@:?#%41", username="me", database=3, tls=True)
    assert Address.parse(there.url) == there
