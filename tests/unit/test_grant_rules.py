"""Grants of the settings: what makes no sense is refused by its key, what can mean nothing is told by the doctor."""

from __future__ import annotations

import pathlib
import subprocess
import sys
from typing import Any

import pytest

from tes_server import app, configuration, errors, grant_rules, settings, site_looks, site_rules
from tes_server.filer.manifest import Access
from tes_server.model.principal import Role
from tests.unit.api import users

SIGNED_IN = {"auth.modes": ["basic"], "auth.users_file": "/users"}


def made(*grants: dict[str, Any], **tree: Any) -> settings.Settings:
    return configuration.load(None, {}, {**SIGNED_IN, "grants": list(grants), **tree})


def grant(**fields: Any) -> dict[str, Any]:
    return {"owners": ["*"], **fields}


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ({"owners": [], "read": ["/a"]}, "grants[1].owners"),
        ({"owners": ["a", ""], "read": ["/a"]}, "grants[1].owners"),
        ({}, "grants[1]"),
        ({"read": ["/a", "a"]}, "grants[1].read[1]"),
        ({"read": [""]}, "grants[1].read[0]"),
        ({"read": ["/a/../b"]}, "grants[1].read[0]"),
        ({"read": ["/a//b"]}, "grants[1].read[0]"),
        ({"read": ["file:///a/%2e%2e/b"]}, "grants[1].read[0]"),
        ({"read": ["file://host/b"]}, "grants[1].read[0]"),
        ({"read": ["/a/*"]}, "grants[1].read[0]"),
        ({"read": ["/a/{user}"]}, "grants[1].read[0]"),
        ({"write": ["s3://bucket/{owner"]}, "grants[1].write[0]"),
        ({"write": ["s3://bucket/a/../b"]}, "grants[1].write[0]"),
        ({"write": ["s3://x"]}, "grants[1].write[0]"),
        ({"write": ["az://UPPER/c"]}, "grants[1].write[0]"),
        ({"write": ["https://example.org/x"]}, "grants[1].write[0]"),
        ({"write": ["ftp://example.org/x"]}, "grants[1].write[0]"),
        ({"secrets": ["a", "b/c"]}, "grants[1].secrets[1]"),
        ({"secrets": ["a*"]}, "grants[1].secrets[0]"),
        ({"secrets": ["{x}"]}, "grants[1].secrets[0]"),
        ({"secrets": [""]}, "grants[1].secrets[0]"),
    ],
)
def test_what_makes_no_sense(fields: dict[str, Any], where: str) -> None:
    with pytest.raises(errors.SettingsError) as caught:
        site_rules.check(made(grant(read=["/fine"]), grant(**fields)))
    assert caught.value.where == where


@pytest.mark.parametrize(
    "fields",
    [
        {"read": ["/", "file:///a%20b", "/a/{owner}/x-{owner}"], "write": ["s3://", "az://{owner}/con", "gs://bucket/", "s3://{owner}"]},
        {"secrets": ["*", "{owner}", "a.b-{owner}"], "owners": ["alice", "lab-*"]},
    ],
)
def test_what_makes_sense(fields: dict[str, Any]) -> None:
    site_rules.check(made(grant(**fields)))


@pytest.mark.parametrize(
    ("tree", "where"),
    [
        ({"grants": [grant(read=["/a"])]}, "grants"),
        ({"storage": [{"url": "s3://bucket", "owners": ["a"]}]}, "storage[0].owners"),
        ({**SIGNED_IN, "storage": [{"url": "s3://bucket", "owners": ["a"], "tasks": False}]}, "storage[0].owners"),
        ({"kubernetes.owner_pull_secrets": {"a": ["b"]}}, "kubernetes.owner_pull_secrets"),
    ],
)
def test_without_sign_in_there_are_no_owners(tree: dict[str, Any], where: str) -> None:
    enabled = {"kubernetes.namespace": "tasks", "kubernetes.image": "i"} if "kubernetes.owner_pull_secrets" in tree else {}
    with pytest.raises(errors.SettingsError) as caught:
        app.check(configuration.load(None, {}, {**tree, **enabled}))
    assert caught.value.where == where


def test_all_platforms_have_the_same_grants() -> None:
    given = grant(read=["/data/{owner}"])
    known = made(given, **{"local.disk_gb": 1.0})
    assert site_rules.policy(known).grants == grant_rules.grants(known)
    assert site_rules.policy(configuration.load(None, {}, {})).grants is None
    assert site_rules.policy(made()).grants == ()


def test_an_owner_s_store_is_for_its_tasks_alone() -> None:
    """Neither the spool nor the archive takes it, and guests and others do not hear of it."""
    tables = [{"url": "s3://bucket", "write": True, "tasks": False}, {"url": "s3://bucket", "write": True, "owners": ["alice"], "profile": "alice"}]
    known = made(storage=tables, **{"spool.url": "s3://bucket/spool"})
    assert [store.profile for store in site_rules.spool_access(known).stores] == [""]
    assert site_rules.storage(known) == ()
    assert isinstance(site_rules.access(known), Access)
    assert [store.owners for store in site_rules.access(known).stores] == [("alice",)]
    with pytest.raises(errors.SettingsError):
        site_rules.check_spool(known)  # tasks may name it


@pytest.mark.parametrize(
    ("fields", "idle"),
    [
        ({"read": ["/data", "/data/x", "/", "/data/{owner}", "/data/users/{owner}/in"]}, []),
        ({"read": ["/elsewhere"], "write": ["/dat"]}, ["read[0]", "write[0]"]),
        ({"read": ["/homes/{owner}", "/{owner}", "/homes/x/{owner}"]}, ["read[2]"]),
        ({"read": ["s3://bucket/x", "s3://", "s3://other", "s3://{owner}", "gs://bucket"]}, ["read[2]", "read[3]", "read[4]"]),
        ({"write": ["s3://bucket", "az://account/con/{owner}"]}, ["write[0]"]),
        ({"write": ["/exec/{owner}", "/cromwell"]}, ["write[1]"]),
        ({"secrets": ["portal", "nowhere", "{owner}-key", "{owner}-lock", "*"]}, ["secrets[1]", "secrets[3]"]),
    ],
)
def test_what_can_mean_nothing(fields: dict[str, Any], idle: list[str]) -> None:
    known = made(
        grant(**fields),
        **{
            "files.roots": ["/data", "/homes/alice"],
            "storage": [{"url": "s3://bucket"}, {"url": "az://account", "write": True}],
            "paths": [{"path": "/exec", "url": "az://account/con"}],
            "local.secrets": {"portal": "/x", "alice-key": "/y"},
            "local.disk_gb": 1.0,
        },
    )
    assert [key for key, _ in grant_rules.idle(known, app.targets(known).values())] == [f"grants[0].{key}" for key in idle]


def test_a_site_that_nobody_may_use_is_told() -> None:
    assert "granted nothing" in site_looks.ungranted(made(**{"files.roots": ["/data"]}))
    assert site_looks.ungranted(made()) == site_looks.ungranted(made(grant(read=["/data"]), **{"files.roots": ["/data"]})) == ""
    assert site_looks.ungranted(configuration.load(None, {}, {"files.roots": ["/data"]})) == ""


def test_owners_that_nobody_has_are_told() -> None:
    site = made({"owners": ["*", "mia"], "read": ["/data"]}, {"owners": ["lab-*", "bob", "miaa"], "read": ["/data"]})
    told = [("grants[1].owners[1]", "no user has the owner bob"), ("grants[1].owners[2]", "no user has the owner miaa")]
    assert list(grant_rules.unknown(site, ("mia", "lab-1"))) == told


def test_the_doctor_tells(tmp_path: pathlib.Path) -> None:
    users.write(tmp_path / "users", ("alice", Role.USER))
    config = tmp_path / "site.toml"
    config.write_text(
        f'[auth]\nmodes = ["basic"]\nusers_file = "{tmp_path}/users"\n[[grants]]\nowners = ["*", "alise"]\nread = ["/nowhere"]\n'
        f'[log]\naudit = "{tmp_path}/none/audit.jsonl"\n[local.secrets]\nportal = "{tmp_path}/portal"\n'
    )
    words: list[str | pathlib.Path] = [
        pathlib.Path(sys.executable).parent / "tes-server",
        "doctor",
        "--engine",
        "sandbox",
        "--data",
        tmp_path / "data",
        "--config",
        config,
    ]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    said = done.stdout
    assert "no    grants[0].read[0]: /nowhere is neither" in said
    assert "note  grants[0].owners[1]: no user has the owner alise" in said
    assert "note  local.secrets.portal: the file that it leads to does not exist" in said
    assert f"no    audit log: log.audit: {tmp_path}/none/audit.jsonl cannot be written: there is no such directory" in said
    assert done.returncode == 1
