"""Sign-in by tokens over the whole stack, beside passwords."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator

import pytest
from pytest_httpserver import HTTPServer
from starlette.types import ASGIApp

from tes_server import settings
from tes_server.api import application
from tes_server.model.principal import Role
from tes_server.settings_auth import AuthSettings, ClaimRoleSettings, IssuerSettings
from tests.issuer import AUDIENCE, TokenIssuer, bearer, rsa
from tests.unit.api import asgi, users
from tests.unit.api.service import TASK
from tests.unit.control.conftest import World

PASSWORD = users.basic("alice")


@pytest.fixture
def issuer(httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> TokenIssuer:
    monkeypatch.setenv("no_proxy", "*")
    return TokenIssuer(httpserver)


@pytest.fixture
def app(issuer: TokenIssuer, tmp_path: pathlib.Path) -> Iterator[ASGIApp]:
    users.write(tmp_path / "users", ("alice", Role.USER))
    roles = (
        ClaimRoleSettings(role="admin", claim="groups", value="admins"),
        ClaimRoleSettings(role="viewer", claim="groups", value="auditors"),
        ClaimRoleSettings(role="user", claim="groups", value="staff"),
    )
    known = IssuerSettings(issuer=issuer.url, audience=(AUDIENCE,), prefix="idp:", roles=roles, scopes=("tes",))
    world = World(tmp_path / "tasks.sqlite")
    auth = AuthSettings(modes=("basic", "oidc"), users_file=str(tmp_path / "users"), issuers=(known,))
    yield application.build(world.service(), settings.Settings(auth=auth))
    world.store.close()


def token(issuer: TokenIssuer, who: str, group: str = "staff", scope: str = "openid tes") -> dict[str, str]:
    return bearer(issuer.token(sub=who, groups=[group], scope=scope))


def test_two_users_a_viewer_and_an_admin(app: ASGIApp, issuer: TokenIssuer) -> None:
    alice, bob, viewer, admin = (token(issuer, who, group) for who, group in (("alice", "staff"), ("bob", "staff"), ("v", "auditors"), ("r", "admins")))
    made = {who["authorization"]: str(asgi.post(app, "/v1/tasks", TASK, headers=who).json["id"]) for who in (alice, bob, admin)}
    for who, seen in ((alice, 1), (bob, 1), (viewer, 3), (admin, 3), (PASSWORD, 0)):
        assert len(asgi.get(app, "/v1/tasks", headers=who).json["tasks"]) == seen
    bobs = made[bob["authorization"]]
    assert [asgi.get(app, f"/v1/tasks/{bobs}", headers=who).status for who in (alice, bob, viewer, admin, PASSWORD)] == [404, 200, 200, 200, 404]
    assert [asgi.post(app, f"/v1/tasks/{bobs}:cancel", headers=who).status for who in (alice, viewer, PASSWORD, admin)] == [404, 403, 404, 200]


def test_a_password_of_the_same_name_is_somebody_else(app: ASGIApp, issuer: TokenIssuer) -> None:
    alices = asgi.post(app, "/v1/tasks", TASK, headers=token(issuer, "alice")).json["id"]
    assert asgi.get(app, f"/v1/tasks/{alices}", headers=PASSWORD).status == 404


def test_who_is_known_and_has_nothing_to_do_here(app: ASGIApp, issuer: TokenIssuer) -> None:
    for who in (token(issuer, "mallory", "guests"), token(issuer, "alice", "staff", "openid")):
        answer = asgi.get(app, "/v1/tasks", headers=who)
        assert answer.status == 403
        assert "token" in answer.json["detail"]


def test_a_bad_token_is_told_why(app: ASGIApp, issuer: TokenIssuer) -> None:
    answer = asgi.get(app, "/v1/tasks", headers=bearer(issuer.token(exp=1)))
    assert answer.status == 401
    assert answer.json["detail"] == "the token has expired"
    # Two header lines; the last one is seen here.
    assert answer.headers["www-authenticate"] == 'Bearer realm="tes-server", error="invalid_token", error_description="the token has expired"'
    assert asgi.get(app, "/v1/tasks").headers["www-authenticate"] == 'Bearer realm="tes-server"'


def test_an_issuer_that_is_away_is_503_and_passwords_go_on(app: ASGIApp, issuer: TokenIssuer) -> None:
    issuer.status = 500
    answer = asgi.get(app, "/v1/tasks", headers=token(issuer, "alice"))
    assert answer.status == 503
    assert int(answer.headers["retry-after"]) >= 1
    assert asgi.get(app, "/v1/tasks", headers=PASSWORD).status == 200
    assert asgi.get(app, "/v1/service-info").status == 200


def test_a_good_token_is_looked_at_once(app: ASGIApp, issuer: TokenIssuer) -> None:
    alice = token(issuer, "alice")
    assert asgi.get(app, "/v1/tasks", headers=alice).status == 200
    issuer.status, issuer.keys = 500, [rsa("two")]
    for _ in range(5):
        assert asgi.get(app, "/v1/tasks", headers=alice).status == 200
    assert len(issuer.asked) == 2
