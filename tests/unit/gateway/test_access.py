"""Who may call: Host, Origin, keys, roles and tenants."""

from __future__ import annotations

import logging

import pytest

from perdure.errors import ConfigurationError
from perdure.gateway.settings import ApiKey, GatewaySettings, Role, parse_api_keys

from .conftest import House, Open

pytestmark = pytest.mark.anyio

KEYS = "acme:submit+read:key-of-acme, globex:submit+read+operate:key-of-globex"


@pytest.mark.parametrize("host", ["localhost:2024", "127.0.0.1", "[::1]:80", "LOCALHOST"])
async def test_loopback_names_are_served_without_a_key(house: House, host: str) -> None:
    assert (await house.http.get("/v1/graphs", headers={"Host": host})).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", ""])
async def test_rebound_names_are_refused(house: House, host: str) -> None:
    for path in ("/v1/graphs", "/livez", "/docs"):
        assert (await house.http.get(path, headers={"Host": host})).status_code == 403


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:1"])
async def test_cross_site_posts_are_refused(house: House, origin: str) -> None:
    answer = await house.http.post("/v1/tasks", json={"graph": "echo", "input": 1}, headers={"Origin": origin})
    assert answer.status_code == 403
    assert (await house.http.get("/v1/tasks")).json()["tasks"] == []


async def test_own_pages_may_post(house: House) -> None:
    answer = await house.http.post("/v1/tasks", json={"graph": "echo", "input": 1}, headers={"Origin": house.url})
    assert answer.status_code == 202


async def test_named_origins_may_call_and_read_the_answers_headers(opened: Open) -> None:
    async with opened(origins=("https://app.example",)) as house:
        origin = {"Origin": "https://app.example"}
        asked = await house.http.options("/v1/tasks", headers={**origin, "Access-Control-Request-Method": "POST"})
        assert asked.status_code == 204
        assert asked.headers["access-control-allow-origin"] == "https://app.example"
        answer = await house.http.post("/v1/tasks", json={"graph": "echo", "input": 1}, headers=origin)
        assert answer.status_code == 202
        assert "Location" in answer.headers["access-control-expose-headers"]


async def test_a_welcome_page_may_read_refusals_too_and_an_unwelcome_one_may_not(opened: Open) -> None:
    async with opened(keys=parse_api_keys("acme:read:reads-only-key"), origins=("https://app.example",)) as house:
        welcome = {"Origin": "https://app.example"}
        refused = await house.http.get("/v1/tasks", headers=welcome)
        body, key = {"graph": "echo", "input": 1}, {"x-api-key": "reads-only-key"}
        forbidden = await house.http.post("/v1/tasks", json=body, headers={**welcome, **key})
        assert (refused.status_code, forbidden.status_code) == (401, 403)
        for answer in (refused, forbidden):
            assert answer.headers["access-control-allow-origin"] == "https://app.example"
        foreign = await house.http.get("/v1/tasks", headers={"Origin": "https://evil.example", **key})
        assert foreign.status_code == 403
        assert "access-control-allow-origin" not in foreign.headers


async def test_keys_open_their_tenants_things_alone(opened: Open) -> None:
    async with opened(keys=parse_api_keys(KEYS)) as house:
        assert (await house.http.get("/v1/tasks")).status_code == 401
        assert (await house.http.get("/livez")).status_code == 200
        wrong = await house.http.get("/v1/tasks", headers={"x-api-key": "key-of-acmf"})
        assert (wrong.status_code, wrong.headers["www-authenticate"]) == (401, 'Bearer realm="perdure"')
        acme, globex = {"Authorization": "Bearer key-of-acme"}, {"x-api-key": "key-of-globex"}
        body = {"graph": "echo", "input": 1, "thread_id": "t"}
        made = (await house.http.post("/v1/tasks", json=body, headers=acme)).json()
        path = made["links"]["self"]
        assert (await house.http.get(path, headers=acme)).status_code == 200
        assert (await house.http.get("/v1/tasks", headers=globex)).json()["tasks"] == []
        for other in (path, path + "/events", path + "/artifacts", "/v1/threads/t", "/v1/threads/t/state"):
            assert (await house.http.get(other, headers=globex)).status_code == 404, other
        for verb in ("/cancel", "/requeue"):
            assert (await house.http.post(path + verb, headers=globex)).status_code == 404


async def test_roles_bound_what_a_key_may_do(opened: Open) -> None:
    async with opened(keys=parse_api_keys("acme:read:reads-only-key"), chaos=True) as house:
        key = {"x-api-key": "reads-only-key"}
        assert (await house.http.get("/v1/tasks", headers=key)).status_code == 200
        assert (await house.http.post("/v1/tasks", json={"graph": "echo", "input": 1}, headers=key)).status_code == 403
        for path in ("/v1/workers", "/metrics"):
            assert (await house.http.get(path, headers=key)).status_code == 403
        assert (await house.http.post("/v1/workers/w/kill", headers=key)).status_code == 403


async def test_keys_never_reach_answers_or_logs(opened: Open, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        async with opened(keys=parse_api_keys("the-real-secret")) as house:
            answer = await house.http.get("/v1/tasks", headers={"x-api-key": "a-guessed-secret"})
            house.gateway.services.store.locate = None  # type: ignore[assignment, method-assign]
            broken = await house.http.get("/v1/tasks/x", headers={"x-api-key": "the-real-secret"})
    assert broken.status_code == 500
    for secret in ("the-real-secret", "a-guessed-secret"):
        assert secret not in answer.text + broken.text
        assert not [record for record in caplog.records if record.name.startswith("perdure") and secret in str(record)]
    assert "the-real-secret" not in repr(ApiKey("the-real-secret"))
    assert "the-real-secret" not in repr(GatewaySettings(keys=(ApiKey("the-real-secret"),)))


def test_key_entries_are_read() -> None:
    plain, acme = parse_api_keys("just-a-key, acme:read+submit:with:colons")
    assert (plain.secret, plain.tenant, plain.roles) == ("just-a-key", "default", frozenset(Role))
    assert (acme.secret, acme.tenant, acme.roles) == ("with:colons", "acme", {Role.READ, Role.SUBMIT})


@pytest.mark.parametrize("text", ["short", "two:partsonly", "acme:fly:a-long-secret", "a/b:read:a-long-secret"])
def test_faulty_key_entries_are_told_by_place_and_not_by_text(text: str) -> None:
    with pytest.raises(ConfigurationError, match="entry 1") as caught:
        parse_api_keys(text)
    assert "a-long-secret" not in str(caught.value)


def test_any_origin_needs_keys() -> None:
    with pytest.raises(ConfigurationError):
        GatewaySettings(origins=("*",))
