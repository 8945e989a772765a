"""Who is served without sign-in: the matrix of Host, Origin and Sec-Fetch-Site."""

from __future__ import annotations

import pytest
from starlette.types import ASGIApp

from tes_server import errors, settings
from tes_server.api import application, auth
from tes_server.settings_auth import AuthSettings
from tests.unit.api import asgi
from tests.unit.api.service import TASK, MemoryService

CLOSED = auth.Rules()
LISTED = auth.Rules(hosts=frozenset({"tes.example", "192.0.2.7"}))
OPEN = auth.Rules(open=True)


@pytest.mark.parametrize("host", ["localhost", "localhost:8000", "LOCALHOST:1", "127.0.0.1", "127.0.0.1:8000", "127.9.8.7:80", "[::1]", "[::1]:8000"])
@pytest.mark.parametrize("rules", [CLOSED, LISTED, OPEN])
def test_loopback_names_are_served(rules: auth.Rules, host: str) -> None:
    assert auth.refusal(rules, host, None, None) is None


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8000",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "localhost@evil.example",
        "evil.example@localhost",
        "localhost/x",
        "localhost:port",
        "localhost:99999",
        "[::1",
        "::1",
        "127.1",
        "0.0.0.0",
        "",
        " ",
        "localhost,evil.example",
    ],
)
def test_other_names_are_refused(host: str) -> None:
    assert auth.refusal(CLOSED, host, None, None)


def test_a_request_without_host_is_refused() -> None:
    assert auth.refusal(CLOSED, None, None, None)


@pytest.mark.parametrize("host", ["192.0.2.1", "192.0.2.1:8000", "[2001:db8::1]:8000", "0.0.0.0:8000"])
def test_address_literals_are_served_only_by_an_open_server(host: str) -> None:
    assert auth.refusal(OPEN, host, None, None) is None
    assert auth.refusal(CLOSED, host, None, None)


def test_an_open_server_still_wants_names_listed() -> None:
    refused = auth.refusal(OPEN, "rebound.example:8000", None, None)
    assert refused is not None
    assert "auth.hosts" in refused


@pytest.mark.parametrize("host", ["tes.example", "TES.example:443", "192.0.2.7:8000"])
def test_listed_names_are_served_at_any_port(host: str) -> None:
    assert auth.refusal(LISTED, host, None, None) is None


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("localhost", "http://localhost"),
        ("localhost:80", "http://localhost"),
        ("localhost", "http://LOCALHOST:80"),
        ("tes.example", "https://tes.example"),
        ("tes.example:443", "https://tes.example"),
    ],
)
def test_the_server_s_own_pages_are_served(host: str, origin: str) -> None:
    assert auth.refusal(LISTED, host, origin, "same-origin") is None


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example",
        "null",
        "",
        "http://localhost",
        "http://localhost:3000",
        "http://127.0.0.1:3000",
        "http://127.0.0.1:8000.evil.example",
        "http://127.0.0.1:8000@evil.example",
        "127.0.0.1:8000",
        "http://[",
        "chrome-extension://abcdef",
    ],
)
def test_pages_of_other_origins_are_refused(origin: str) -> None:
    assert auth.refusal(CLOSED, "127.0.0.1:8000", origin, None)


@pytest.mark.parametrize(
    ("site", "served"),
    [(None, True), ("none", True), ("same-origin", True), ("same-site", False), ("cross-site", False), ("CROSS-SITE", False), ("new", False)],
)
def test_fetch_metadata(site: str | None, served: bool) -> None:
    assert (auth.refusal(CLOSED, "localhost", None, site) is None) is served


REFUSED = [
    {"host": "evil.example"},
    {},
    {**asgi.LOOPBACK, "origin": "http://evil.example"},
    {**asgi.LOOPBACK, "origin": "null"},
    {**asgi.LOOPBACK, "sec-fetch-site": "cross-site"},
    {"host": "evil.example", "x-forwarded-host": "localhost"},
]

GUARDED = ["/v1/tasks", "/ga4gh/tes/v1/tasks", "/v1/service-info", "/service-info", "/v1/tasks/service-info", "/", "/ui", "/docs", "/openapi.json", "/nowhere"]


@pytest.mark.parametrize("headers", REFUSED)
@pytest.mark.parametrize("path", GUARDED)
def test_every_path_is_guarded(app: ASGIApp, path: str, headers: dict[str, str]) -> None:
    answer = asgi.get(app, path, headers=headers)
    assert answer.status == 403
    assert answer.headers["content-type"] == "application/json"
    assert answer.json["title"] == "Forbidden"


@pytest.mark.parametrize("headers", REFUSED)
def test_no_page_of_another_site_starts_or_cancels_anything(app: ASGIApp, service: MemoryService, task_id: str, headers: dict[str, str]) -> None:
    for path in ("/v1/tasks", f"/v1/tasks/{task_id}:cancel", f"/ui/tasks/{task_id}/cancel"):
        assert asgi.post(app, path, TASK, headers={**headers, "content-type": "text/plain"}).status == 403
    assert service.states == {task_id: "QUEUED"}


@pytest.mark.parametrize("headers", REFUSED)
@pytest.mark.parametrize("path", sorted(auth.OPEN_PATHS))
def test_probes_are_open(app: ASGIApp, path: str, headers: dict[str, str]) -> None:
    assert asgi.get(app, path, headers=headers).status == 200


def test_two_host_headers_are_refused() -> None:
    guard = auth.Guard(asgi_never, auth.Rules())
    with pytest.raises(errors.Forbidden):
        guard.judge([(b"host", b"localhost"), (b"host", b"localhost")])


async def asgi_never(*_: object) -> None:
    raise AssertionError("not to be reached")


@pytest.mark.parametrize("value", ["Basic None:None", "Bearer nonsense", "Basic Tm9uZTpOb25l"])
def test_row_18_any_authorization_header_is_ignored(app: ASGIApp, value: str) -> None:
    assert asgi.get(app, "/v1/tasks", headers={**asgi.LOOPBACK, "authorization": value}).status == 200


def test_settings_name_further_hosts() -> None:
    config = settings.Settings(auth=AuthSettings(hosts=("TES.example",)))
    app = application.build(MemoryService(), config)
    assert asgi.get(app, "/v1/tasks", headers={"host": "tes.example:8000"}).status == 200
    assert asgi.get(app, "/v1/tasks", headers={"host": "other.example:8000"}).status == 403
