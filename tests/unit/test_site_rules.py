"""Settings that contradict each other are refused before anything starts, by their key."""

from __future__ import annotations

import pathlib
from typing import Any

import pytest

from tes_server import cluster_rules, configuration, errors, machine, node_rules, settings, site_looks, site_rules
from tes_server.plan.bounds import Bounds
from tes_server.plan.guard import Guard


def made(**tree: Any) -> settings.Settings:
    return configuration.load(None, {}, tree)


@pytest.mark.parametrize(
    ("tree", "where"),
    [
        ({"server.host": "0.0.0.0"}, "server.host"),
        ({"server.trusted_proxies": ["10.0.0.1", "*"]}, "server.trusted_proxies[1]"),
        ({"server.trusted_proxies": ["10.0.0.1/8"]}, "server.trusted_proxies[0]"),
        ({"server.trusted_proxies": ["::/0"]}, "server.trusted_proxies[0]"),
        ({"server.trusted_proxies": [""]}, "server.trusted_proxies[0]"),
        ({"files.roots": ["/a", "b"]}, "files.roots[1]"),
        ({"files.roots": ["/a"], "files.live_mounts": ["b"]}, "files.live_mounts[0]"),
        ({"files.net_allow": ["10.0.0.0/8", "http://host"]}, "files.net_allow[1]"),
        ({"files.net_allow": ["169.254.169.254"]}, "files.net_allow[0]"),
        ({"files.net_allow": ["host:99999"]}, "files.net_allow[0]"),
        ({"auth.modes": ["basic"], "files.uploads": ["http"], "paths": [{"path": "/p", "url": "http://127.0.0.1:81/x"}]}, "paths[0].url"),
        (
            {
                "auth.modes": ["basic"],
                "files.uploads": ["http"],
                "files.net_allow": ["127.0.0.1:82"],
                "paths": [{"path": "/p", "url": "http://127.0.0.1:81/x"}],
            },
            "paths[0].url",
        ),
        ({"storage": [{"url": "s3://x"}]}, "storage[0].url"),
        ({"storage": [{"url": "s3://bucket", "region": "eu\n"}]}, "storage[0].region"),
        ({"storage": [{"url": "s3://bucket", "endpoint": "minio:9000"}]}, "storage[0].endpoint"),
        ({"storage": [{"url": "s3://bucket", "endpoint": "http://"}]}, "storage[0].endpoint"),
        ({"storage": [{"url": "s3://bucket", "endpoint": "http://[::1"}]}, "storage[0].endpoint"),
        ({"storage": [{"url": "s3://bucket", "endpoint": "http://a:99999"}]}, "storage[0].endpoint"),
        ({"storage": [{"url": "s3://bucket", "endpoint": "http://a b/"}]}, "storage[0].endpoint"),
        ({"storage": [{"url": "s3://bucket", "endpoint": "http://[::1]:9000", "path_style": False}]}, "storage[0].path_style"),
        ({"sandbox.mirrors": [{"prefix": "docker.io", "url": "http://[::1"}]}, "sandbox.mirrors[0].url"),
        ({"sandbox.mirrors": [{"prefix": "docker.io", "url": "https://user:word@mirror"}]}, "sandbox.mirrors[0].url"),
        ({"paths": [{"path": "p", "url": "file:///a"}]}, "paths[0].path"),
        ({"paths": [{"path": "//", "url": "file:///a"}]}, "paths[0].path"),
        ({"files.roots": ["/a"], "paths": [{"path": "/p", "url": "file:///a/x"}, {"path": "/q", "url": "s3://a"}]}, "paths[1].url"),
        ({"files.roots": ["/a"], "paths": [{"path": "/p", "url": "file:///ab"}]}, "paths[0].url"),
        ({"paths": [{"path": "/p", "url": "file:///a"}]}, "paths[0].url"),
        ({"paths": [{"path": "/p", "url": "gopher://a"}]}, "paths[0].url"),
        ({"paths": [{"path": "/p", "url": "ftp://a/b"}]}, "paths[0].url"),
        ({"files.uploads": ["ftp"], "paths": [{"path": "/p", "url": "ftp:/a/b"}]}, "paths[0].url"),
        ({"retention.archive": "file:///a"}, "retention.archive"),
        ({"retention.days": 1, "retention.archive": "/a"}, "retention.archive"),
        ({"retention.days": 1, "retention.archive": "file://host/a"}, "retention.archive"),
        ({"retention.days": 1, "retention.archive": "file:///a/../b"}, "retention.archive"),
        ({"retention.days": 1, "retention.archive": "s3://bucket/x"}, "retention.archive"),
        ({"retention.days": 1, "retention.archive": "s3://bucket/x", "storage": [{"url": "s3://bucket"}]}, "retention.archive"),
        ({"retention.days": 1, "retention.archive": "s3://bucket/x/..", "storage": [{"url": "s3://bucket", "write": True}]}, "retention.archive"),
        ({"retention.days": 1, "retention.archive": "ftp://host/a", "files.uploads": ["ftp"]}, "retention.archive"),
    ],
)
def test_a_contradiction_is_named(tree: dict[str, Any], where: str) -> None:
    with pytest.raises(errors.SettingsError) as caught:
        site_rules.check(made(**tree))
    assert caught.value.where == where


@pytest.mark.parametrize(
    "tree",
    [
        {},
        {"server.host": "::1"},
        {"server.trusted_proxies": ["10.0.0.0/8", "::1"]},
        {"storage": [{"url": "s3://bucket", "endpoint": "https://minio.example:9000/below", "path_style": False, "region": "eu-west-1"}]},
        {"storage": [{"url": "s3://bucket", "endpoint": "http://127.0.0.1:9000"}]},
        {"files.net_allow": ["10.0.0.0/8", "127.0.0.1:81", "[::1]:81", "host.example", "::1"], "files.net_private": False},
        {"files.uploads": ["http"], "files.net_allow": ["127.0.0.1:81"], "paths": [{"path": "/p", "url": "http://127.0.0.1:81/x"}]},
        {"server.host": "0.0.0.0", "auth.allow_open": True},
        {"server.host": "0.0.0.0", "auth.modes": ["basic"]},
        {"files.roots": ["/a/"], "paths": [{"path": "//p/", "url": "file:///a/b%20c/"}]},
        {"files.uploads": ["ftp"], "paths": [{"path": "/p", "url": "ftp://a/b"}]},
        {"retention.days": 0.5, "retention.archive": "file:///a/b%20c/"},
        {"retention.days": 1, "retention.archive": "s3://bucket/x", "storage": [{"url": "s3://bucket", "write": True}]},
        {"files.live_mounts": ["/a"], "paths": [{"path": "/p", "url": "file:///a"}]},
    ],
)
def test_what_fits_together_is_taken(tree: dict[str, Any]) -> None:
    site_rules.check(made(**tree))


def test_directories_are_normalised_as_the_paths_of_tasks_are() -> None:
    sites = site_rules.policy(made(**{"files.roots": ["//a/./b/", "/a/b"], "paths": [{"path": "//p//q/", "url": "file:///a/b/"}]})).sites
    assert sites.roots == ("/a/b",)
    assert [(site.path, site.url) for site in sites.paths] == [("/p/q", "file:///a/b")]


def test_stores_of_the_server_alone_are_not_for_tasks() -> None:
    known = made(storage=[{"url": "s3://ours", "write": True, "tasks": False}, {"url": "s3://theirs"}])
    assert [store.url for store in site_rules.access(known).stores] == ["s3://theirs"]
    assert [store.url for store in site_rules.access(known, server=True).stores] == ["s3://ours", "s3://theirs"]
    assert [rule.place.bucket for rule in site_rules.policy(known).sites.stores] == ["theirs"]
    assert site_rules.storage(known) == ("s3://theirs",)
    assert site_rules.in_reach("s3://theirs/x", known)
    assert not site_rules.in_reach("s3://ours/x", known)
    with pytest.raises(errors.SettingsError):
        site_rules.check(made(storage=[{"url": "s3://ours", "write": True, "tasks": False}], paths=[{"path": "/p", "url": "s3://ours/x"}]))


def test_what_is_told_at_creation_and_what_transfers_do_come_from_one_guard(tmp_path: pathlib.Path) -> None:
    tree = {"files.net_allow": ["127.0.0.1:81"], "files.net_private": False, "files.roots": ["/a"], "data": str(tmp_path)}
    known = made(**{**tree, "auth.modes": ["basic"]})
    wanted = Guard(allow=("127.0.0.1:81",), private=False)
    assert site_rules.policy(known).sites.guard == site_rules.access(known).guard == cluster_rules.access(known).guard == wanted
    assert machine.site(known).access.guard == wanted
    assert site_rules.access(made()).guard == Guard(private=True)


@pytest.mark.parametrize(
    ("tree", "here"),
    [
        ({}, True),
        ({"server.host": "::1"}, True),
        ({"auth.modes": ["basic"]}, False),
        ({"server.host": "0.0.0.0", "auth.allow_open": True}, False),
    ],
)
def test_this_machine_is_open_to_tasks_of_those_who_are_on_it(tree: dict[str, Any], here: bool, tmp_path: pathlib.Path) -> None:
    """Never to those of pods and nodes, whose loopback is another one."""
    known = made(**{**tree, "data": str(tmp_path)})
    for address in ("127.0.0.1", "::1"):
        assert machine.site(known).access.guard.refusal(address, "any", 80) == site_rules.policy(known).sites.guard.refusal(address, "any", 80)
        assert (machine.site(known).access.guard.refusal(address, "any", 80) == "") is here
        assert cluster_rules.access(known).guard.refusal(address, "any", 80)
    assert machine.site(known).access.guard.refusal("169.254.169.254", "any", 80)


def test_the_data_directory_is_hidden_from_tasks(tmp_path: pathlib.Path) -> None:
    known = made(**{"data": str(tmp_path / "data"), "files.roots": [str(tmp_path)]})
    assert str(tmp_path / "data") in machine.site(known).access.hidden
    assert set(site_rules.access(known).hidden) < set(machine.site(known).access.hidden)


def test_live_mounts_that_hold_the_data_directory_are_refused(tmp_path: pathlib.Path) -> None:
    """What is mounted is the containers': there nothing can be hidden."""
    (tmp_path / "link").symlink_to(tmp_path)
    known = {"data": str(tmp_path / "link" / "data"), "files.live_mounts": ["/no/where", str(tmp_path)]}
    with pytest.raises(errors.SettingsError) as caught:
        machine.check(made(**known))
    assert caught.value.where == "files.live_mounts[1]"
    machine.check(made(**known | {"files.live_mounts": [str(tmp_path / "live")]}))


def test_files_of_the_server_that_tasks_may_read_are_told(tmp_path: pathlib.Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "root")
    tree = {
        "files.roots": [str(tmp_path / "root")],
        "auth.users_file": str(tmp_path / "link" / "users"),
        "local.secrets": {"fine": str(tmp_path / "fine"), "bare": str(tmp_path / "root" / "bare"), "variable": "env:X"},
        "storage": [{"url": "gs://a", "file": str(tmp_path / "root" / "account.json")}],
    }
    root = str(tmp_path / "root")
    assert list(site_looks.exposed(made(**tree))) == [("auth.users_file", root), ("storage[0].file", root), ("local.secrets.bare", root)]
    assert list(site_looks.exposed(made())) == []


def test_secrets_of_this_machine_that_cannot_be_read_are_told(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "portal").write_text("canary")
    (tmp_path / "binary").write_bytes(b"canary\xff")
    monkeypatch.delenv("ABSENT", raising=False)
    kept = {"fine": str(tmp_path / "portal"), "slip": str(tmp_path / "portall"), "binary": str(tmp_path / "binary")}
    told = dict(site_looks.unreadable(made(**{"local.secrets": kept, "local.scan_secrets": {"variable": "env:ABSENT"}})))
    assert list(told) == ["local.secrets.slip", "local.secrets.binary", "local.scan_secrets.variable"]
    assert "does not exist" in told["local.secrets.slip"]
    assert "canary" not in str(told)


def test_bounds_of_tasks_come_from_the_settings() -> None:
    keys = {"max_inputs": 5, "max_executors": 6, "max_tags": 7, "max_content": 8, "max_staged_files": 9, "max_staged_gb": 0.5}
    known = made(**{f"tasks.{key}": value for key, value in keys.items()})
    assert site_rules.policy(known).bounds == Bounds(files=5, executors=6, tags=7, content=8)
    assert (site_rules.access(known).most_files, site_rules.access(known).most_bytes) == (9, 500_000_000)
    assert cluster_rules.access(known).most_files == 9
    node = node_rules.site(known, known.aws_batch, ("run",)).access
    assert (node.most_files, node.guard) == (9, site_rules.access(known).guard)
