"""From claims to a principal: nothing is taken for more than the settings say."""

from __future__ import annotations

import datetime
import json
from typing import Any

import pytest

from tes_server import errors
from tes_server.api import claims
from tes_server.control import audit
from tes_server.model.principal import Principal, Role
from tes_server.settings_auth import ClaimRoleSettings, IssuerSettings

NOW = 1_800_000_000.0
GOOD = {"iss": "https://idp.example", "aud": "tes", "exp": NOW + 60, "sub": "alice"}


def issuer(**more: Any) -> IssuerSettings:
    return IssuerSettings(**{"issuer": "https://idp.example", "audience": ("tes", "tes-2"), "default_role": "user", **more})


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"aud": ["other", "tes-2"]},
        {"exp": NOW - 29},
        {"exp": NOW + 0.5},
        {"nbf": NOW + 29, "iat": NOW + 29},
        {"nbf": NOW, "iat": NOW - 10_000},
    ],
)
def test_good_ones(more: dict[str, Any]) -> None:
    claims.check(GOOD | more, issuer(), NOW)


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"iss": "https://idp.example/"}, "issuer"),
        ({"iss": ["https://idp.example"]}, "issuer"),
        ({"iss": None}, "issuer"),
        ({"aud": "other"}, "audience"),
        ({"aud": "te"}, "audience"),
        ({"aud": "tes other"}, "audience"),
        ({"aud": []}, "audience"),
        ({"aud": None}, "audience"),
        ({"aud": {"tes": 1}}, "audience"),
        ({"aud": [["tes"]]}, "audience"),
        ({"exp": NOW - 31}, "expired"),
        ({"exp": 0}, "expired"),
        ({"exp": float("nan")}, "malformed"),
        ({"exp": float("inf")}, "malformed"),
        ({"exp": True}, "malformed"),
        ({"exp": str(NOW + 60)}, "malformed"),
        ({"exp": None}, "malformed"),
        ({"nbf": NOW + 31}, "early"),
        ({"nbf": "soon"}, "early"),
        ({"iat": NOW + 31}, "early"),
    ],
)
def test_bad_ones(more: dict[str, Any], reason: str) -> None:
    with pytest.raises(errors.Unauthorized) as refused:
        claims.check(GOOD | more, issuer(), NOW)
    assert refused.value.reason == reason


@pytest.mark.parametrize("name", ["iss", "aud", "exp"])
def test_what_a_jwt_must_have(name: str) -> None:
    with pytest.raises(errors.Unauthorized):
        claims.check({key: value for key, value in GOOD.items() if key != name}, issuer(), NOW)


def test_an_issuers_own_word_needs_neither_name_nor_end_but_an_audience() -> None:
    claims.check({"aud": "tes"}, issuer(), NOW, must_end=False)
    for wrong in ({}, {"aud": "other"}, {"aud": "tes", "iss": "https://other.example"}, {"aud": "tes", "exp": NOW - 60}, {"aud": "tes", "exp": None}):
        with pytest.raises(errors.Unauthorized):
            claims.check(wrong, issuer(), NOW, must_end=False)


def test_the_audience_may_be_in_another_claim() -> None:
    cognito = issuer(audience_claim="client_id")
    claims.check({**GOOD, "aud": "other", "client_id": "tes"}, cognito, NOW)
    with pytest.raises(errors.Unauthorized):
        claims.check(GOOD, cognito, NOW)


@pytest.mark.parametrize(
    ("more", "said", "principal"),
    [
        ({}, {}, Principal("alice")),
        ({"prefix": "idp:"}, {}, Principal("idp:alice")),
        ({"owner": "oid"}, {"oid": "7-7"}, Principal("7-7", who="alice")),
        ({"owner": "groups", "owner_pattern": "tes-*"}, {"groups": ["staff", "tes-lab", "x"]}, Principal("tes-lab", who="alice")),
        ({"owner": "groups"}, {"groups": ["lab"]}, Principal("lab", who="alice")),
        ({"owner": "org.unit"}, {"org": {"unit": "lab"}}, Principal("lab", who="alice")),
        ({"owner": "https://x.example/unit"}, {"https://x.example/unit": "lab"}, Principal("lab", who="alice")),
        ({"owner": "email"}, {"email": "a@x.example", "email_verified": True}, Principal("a@x.example", who="alice")),
        ({"owner": "client_id"}, {"client_id": "robot", "sub": None}, Principal("robot")),
    ],
)
def test_owners(more: dict[str, Any], said: dict[str, Any], principal: Principal) -> None:
    assert claims.principal_of(GOOD | said, issuer(**more)) == principal


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"owner": "oid"}, {}),
        ({}, {"sub": ""}),
        ({}, {"sub": 7}),
        ({}, {"sub": {"a": "b"}}),
        ({}, {"sub": "x" * 201}),
        ({}, {"sub": "a\nb"}),
        ({}, {"sub": "tes-server.scan"}),
        ({}, {"sub": "anonymous"}),
        ({"owner": "groups"}, {"groups": []}),
        ({"owner": "groups"}, {"groups": ["a", "b"]}),
        ({"owner": "groups", "owner_pattern": "tes-*"}, {"groups": ["tes-a", "tes-b"]}),
        ({"owner": "email"}, {"email": "a@x.example"}),
        ({"owner": "email"}, {"email": "a@x.example", "email_verified": False}),
    ],
)
def test_owners_that_cannot_be(more: dict[str, Any], said: dict[str, Any]) -> None:
    with pytest.raises(errors.Forbidden):
        claims.principal_of(GOOD | said, issuer(**more))


ROLES = (
    ClaimRoleSettings(role="admin", claim="realm_access.roles", value="tes-admin"),
    ClaimRoleSettings(role="viewer", claim="cognito:groups", value="auditors"),
    ClaimRoleSettings(role="user", claim="scope", value="tes"),
    ClaimRoleSettings(role="user", claim="kind", value="staff"),
)


@pytest.mark.parametrize(
    ("said", "role"),
    [
        ({"realm_access": {"roles": ["x", "tes-admin"]}, "scope": "tes"}, Role.ADMIN),
        ({"cognito:groups": ["auditors"]}, Role.VIEWER),
        ({"scope": "openid tes profile"}, Role.USER),
        ({"scope": ["tes"]}, Role.USER),
        ({"kind": "staff"}, Role.USER),
    ],
)
def test_roles(said: dict[str, Any], role: Role) -> None:
    assert claims.principal_of(GOOD | said, issuer(roles=ROLES, default_role="none")).role is role


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"realm_access": {"roles": "tes-admins"}},
        {"realm_access": ["tes-admin"]},
        {"realm_access.role": "tes-admin"},
        {"roles": ["tes-admin"]},
        {"scope": "tes-x xtes"},
        {"kind": "staff of another kind"},
        {"kind": {"staff": True}},
    ],
)
def test_no_role_no_entry(said: dict[str, Any]) -> None:
    with pytest.raises(errors.Forbidden):
        claims.principal_of(GOOD | said, issuer(roles=ROLES, default_role="none"))
    assert claims.principal_of(GOOD | said, issuer(roles=ROLES, default_role="viewer")).role is Role.VIEWER


@pytest.mark.parametrize("said", [{"scope": "a b c"}, {"scp": "b a"}, {"scp": ["a", "b"]}, {"scope": "a", "scp": "b"}])
def test_scopes_that_will_do(said: dict[str, Any]) -> None:
    claims.principal_of(GOOD | said, issuer(scopes=("a", "b")))


@pytest.mark.parametrize("said", [{}, {"scope": "a"}, {"scope": "a,b"}, {"scope": {"a": 1, "b": 1}}, {"scope": "ab"}])
def test_scopes_that_will_not(said: dict[str, Any]) -> None:
    with pytest.raises(errors.Forbidden, match="scope"):
        claims.principal_of(GOOD | said, issuer(scopes=("a", "b")))


@pytest.mark.parametrize(
    ("sub", "who"),
    [("b\ud800b", "b\ufffdb"), ("b\n{}", "b\ufffd{}"), ("b" * 5000, "b" * 200), (["bob"], ""), (None, ""), (7, "")],
    ids=["half a pair", "line", "long", "list", "null", "number"],
)
def test_the_audit_log_can_have_whatever_a_subject_is(sub: object, who: str) -> None:
    known = issuer(owner="unit")
    found = claims.principal_of(GOOD | {"unit": "lab", "sub": sub}, known)
    assert found == Principal("lab", who=who)
    lines: list[bytes] = []
    audit.Audit(lines.append, lambda: datetime.datetime.now(datetime.UTC)).did("task.create", found, task="x")
    assert json.loads(lines[0])["who"] == (who or "lab")
