"""What `perdure submit` makes of its INPUT."""

from __future__ import annotations

import click
import pytest

from perdure.cli.submit import parse_input, place_text
from perdure.client import Client

NOWHERE = Client("http://127.0.0.1:9", patience_s=0)


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"question": "str"}, {"question": "hi"}),
        ({"messages": "list"}, {"messages": [{"role": "user", "content": "hi"}]}),
        ({"messages": "list", "lang": "str"}, {"messages": [{"role": "user", "content": "hi"}]}),
        ({"text": "str", "limit": "int"}, {"text": "hi"}),
        ({"anything": "dict"}, {"anything": "hi"}),
        (None, "hi"),
    ],
)
def test_plain_text_goes_under_the_one_obvious_key(keys: dict[str, str] | None, expected: object) -> None:
    assert place_text("g", keys, "hi") == expected


def test_where_no_key_is_obvious_the_error_names_them_and_shows_the_json_to_write() -> None:
    with pytest.raises(click.UsageError, match=r"keys title, body.*'\{\"title\": \"…\", \"body\": \"…\"\}'"):
        place_text("g", {"title": "str", "body": "str"}, "hi")


@pytest.mark.parametrize("text", ['{"question": "x"}', "[1, 2]", "3", "null"])
def test_json_is_taken_as_it_is_without_asking_the_gateway(text: str) -> None:
    import json

    assert parse_input(NOWHERE, "g", text) == json.loads(text)


def test_broken_json_is_refused_instead_of_being_taken_for_a_text() -> None:
    with pytest.raises(click.UsageError, match="line 1, column"):
        parse_input(NOWHERE, "g", '{"question": ')
