"""Pages of other sites: none may ask, but for those that the settings name, and these without what the browser remembers."""

from __future__ import annotations

import pathlib
from typing import Any

import pytest
from starlette.types import ASGIApp

from tes_server import errors, settings
from tes_server.api import application, auth
from tes_server.model.principal import Role
from tes_server.settings_auth import AuthSettings
from tes_server.settings_server import ServerSettings
from tests.unit.api import asgi, users
from tests.unit.api.service import TASK, MemoryService

PORTAL = "https://portal.example.org"
CROSS = {"origin": PORTAL, "sec-fetch-site": "cross-site"}


@pytest.fixture(scope="module")
def portal(tmp_path_factory: pytest.TempPathFactory) -> ASGIApp:
    """A server with sign-in that PORTAL may ask."""
    file: pathlib.Path = tmp_path_factory.mktemp("site") / "users"
    users.write(file, ("alice", Role.USER))
    service = MemoryService()
    service.owner = "alice"
    signing = AuthSettings(modes=("basic",), users_file=str(file))
    return application.build(service, settings.Settings(server=ServerSettings(cors_origins=(PORTAL,)), auth=signing))


def send(app: ASGIApp, method: str, target: str, body: bytes = b"", /, **headers: Any) -> asgi.Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    found = asgi.request(app, method, target, body, {**asgi.LOOPBACK, **named})
    assert found is not None
    return found


def test_by_default_nobody_is_named(app: ASGIApp) -> None:
    asked = send(app, "OPTIONS", "/v1/tasks", origin=PORTAL, access_control_request_method="POST")
    read = send(app, "GET", "/v1/service-info", **CROSS)
    for answer in (asked, read):
        assert answer.status == 403
        assert not [name for name in answer.headers if name.startswith("access-control")]


def test_a_page_of_the_list_may_send_a_token_of_its_own(portal: ASGIApp) -> None:
    asked = send(portal, "OPTIONS", "/v1/tasks", access_control_request_method="POST", access_control_request_headers="authorization,content-type", **CROSS)
    assert (asked.status, asked.headers["access-control-allow-origin"]) == (200, PORTAL)
    assert "access-control-allow-credentials" not in asked.headers
    signed: dict[str, Any] = {**users.basic("alice"), **CROSS, "content-type": "application/json; charset=utf-8"}
    made = send(portal, "POST", "/v1/tasks", TASK, **signed)
    assert (made.status, made.headers["access-control-allow-origin"]) == (200, PORTAL)
    assert "access-control-allow-credentials" not in made.headers
    assert send(portal, "GET", f"/v1/tasks/{made.json['id']}", **signed).status == 200


def test_it_reads_refusals_too(portal: ASGIApp) -> None:
    answer = send(portal, "GET", "/v1/tasks", **CROSS)
    assert (answer.status, answer.headers["access-control-allow-origin"]) == (401, PORTAL)
    assert "Origin" in answer.headers["vary"]


@pytest.mark.parametrize("kind", [{}, {"content-type": "text/plain"}, {"content-type": "application/x-www-form-urlencoded"}])
def test_what_browsers_send_unasked_is_refused_with_a_password_that_they_remember(portal: ASGIApp, kind: dict[str, str]) -> None:
    for path in ("/v1/tasks", "/v1/tasks/x:cancel", "/ui/tasks/x/cancel"):
        assert send(portal, "POST", path, TASK, **users.basic("alice"), **CROSS, **kind).status == 403


@pytest.mark.parametrize(
    "origin",
    [
        "https://portal.example.org.evil.example",
        "http://portal.example.org",
        "https://portal.example.org:444",
        "null",
        "https://PORTAL.example.org",
        "https://portal.example.org, https://portal.example.org",
    ],
)
def test_others_are_not_named(portal: ASGIApp, origin: str) -> None:
    answer = send(portal, "GET", "/v1/tasks", **users.basic("alice"), origin=origin, sec_fetch_site="cross-site")
    assert answer.status == 403
    assert "access-control-allow-origin" not in answer.headers
    asked = send(portal, "OPTIONS", "/v1/tasks", origin=origin, access_control_request_method="POST")
    assert "access-control-allow-origin" not in asked.headers


def test_of_two_origins_none_is_believed(portal: ASGIApp) -> None:
    guard = auth.Guard(portal, auth.Rules(any_host=True, origins=frozenset({PORTAL})))
    named = (b"host", b"localhost"), (b"origin", PORTAL.encode())
    guard.judge(named)
    with pytest.raises(errors.Forbidden):
        guard.judge([*named, (b"origin", PORTAL.encode())])
