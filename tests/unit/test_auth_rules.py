"""Settings of sign-in that contradict each other are refused with the key at fault, before anything starts."""

from __future__ import annotations

import pathlib
from typing import Any

import pytest
from pytest_httpserver import HTTPServer

from tes_server import auth_rules, configuration, errors
from tes_server.model.principal import Role
from tests.issuer import TokenIssuer
from tests.unit.api import users


def refused(flags: dict[str, Any], where: str) -> None:
    with pytest.raises(errors.SettingsError) as told:
        auth_rules.check(configuration.load(None, {}, flags).auth)
    assert told.value.where == where


def test_without_modes_there_is_nothing_to_check() -> None:
    auth_rules.check(configuration.load(None, {}, {}).auth)
    auth_rules.check_files(configuration.load(None, {}, {"auth.users_file": "/nowhere"}).auth)


def test_basic_needs_a_file() -> None:
    refused({"auth.modes": ["basic"]}, "auth.users_file")
    refused({"auth.modes": ["basic", "basic"], "auth.users_file": "/x"}, "auth.modes")


def test_a_server_that_nobody_could_sign_in_to_does_not_start(tmp_path: pathlib.Path) -> None:
    auth = configuration.load(None, {}, {"auth.modes": ["basic"], "auth.users_file": str(tmp_path / "users")}).auth
    with pytest.raises(errors.SettingsError, match="cannot be read"):
        auth_rules.check_files(auth)
    users.write(tmp_path / "users")
    with pytest.raises(errors.SettingsError, match="users add"):
        auth_rules.check_files(auth)
    users.write(tmp_path / "users", ("alice", Role.USER))
    auth_rules.check_files(auth)


def test_doctor_says_whether_users_can_sign_in(tmp_path: pathlib.Path, httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    issuer = TokenIssuer(httpserver)
    known = {"issuer": issuer.url, "audience": ["tes"], "default_role": "user", "prefix": "a:"}
    flags = {"auth.modes": ["basic", "oidc"], "auth.users_file": str(tmp_path / "users"), "auth.issuers": [known]}
    auth = configuration.load(None, {}, flags).auth
    users.write(tmp_path / "users", ("alice", Role.USER))
    assert [works for works, _ in auth_rules.condition(auth)] == [True, True]
    (tmp_path / "users").unlink()
    issuer.status = 500
    (by_password, said), (by_token, why) = auth_rules.condition(auth)
    assert (by_password, by_token) == (False, False)
    assert "cannot be read" in said
    assert "answered 500" in why
    assert list(auth_rules.condition(configuration.load(None, {}, {}).auth)) == []


def test_a_place_for_the_audit_log(tmp_path: pathlib.Path) -> None:
    for place in ("", "log", "none", str(tmp_path / "audit.jsonl"), "/dev/null"):
        auth_rules.check_audit(place)
    for place in ("audit.jsonl", "off", str(tmp_path / "none" / "audit.jsonl"), str(tmp_path), str(tmp_path / ("a" * 300))):
        with pytest.raises(errors.SettingsError, match=r"log\.audit"):
            auth_rules.check_audit(place)


def test_all_owners_are_known_where_a_file_alone_says_who_they_are(tmp_path: pathlib.Path) -> None:
    flags: dict[str, Any] = {"auth.modes": ["basic"], "auth.users_file": str(tmp_path / "users")}
    assert auth_rules.owners(configuration.load(None, {}, flags).auth) == ()
    users.write(tmp_path / "users", ("alice", Role.USER), ("ada", Role.ADMIN))
    assert auth_rules.owners(configuration.load(None, {}, flags).auth) == ("alice", "ada")
    known = {"issuer": "https://issuer", "audience": ["tes"], "default_role": "user", "prefix": "a:"}
    both = {**flags, "auth.modes": ["basic", "oidc"], "auth.issuers": [known]}
    assert auth_rules.owners(configuration.load(None, {}, both).auth) == ()
