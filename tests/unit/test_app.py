"""Settings that name a store or backend that there is not are refused before anything starts, by their key."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import pytest

from tes_server import app, audit_rules, configuration, errors
from tes_server.model.principal import Principal
from tes_server.model.task import Executor, Task
from tes_server.store.sqlite import SqliteStore


@pytest.mark.parametrize(
    ("tree", "where"),
    [
        ({"files.roots": ["a"]}, "files.roots[0]"),  # the site's rules are asked too
        ({"routes": [{"backend": "local"}, {"backend": "mars"}]}, "routes[1].backend"),
        ({"store.url": "postgres:"}, "store.url"),
        ({"routes": [{"backend": "kubernetes"}]}, "routes[0].backend"),
        ({"kubernetes.namespace": "tes"}, "kubernetes.image"),  # the cluster's rules too
        ({"local.enabled": False}, "local.enabled"),
    ],
)
def test_what_there_is_not_is_named(tree: dict[str, Any], where: str) -> None:
    with pytest.raises(errors.SettingsError) as caught:
        app.check(configuration.load(None, {}, tree))
    assert caught.value.where == where


def test_the_file_of_a_url_is_the_only_one_that_names_a_store(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "url"
    settings = {"store.url_file": str(file)}
    for content, words in ((None, "cannot be read"), (" \n", "is empty")):
        if content is not None:
            file.write_text(content)
        with pytest.raises(errors.SettingsError, match=words) as caught:
            app.store_url(configuration.load(None, {}, settings))
        assert caught.value.where == "store.url_file"
    file.write_text("mongodb://h/\n")
    assert app.store_url(configuration.load(None, {}, settings)) == "mongodb://h/"
    # Whichever of them is meant, the other one says otherwise.
    with pytest.raises(errors.SettingsError, match="so does"):
        app.store_url(configuration.load(None, {"TES_SERVER__STORE__URL": "mongodb://other/"}, settings))


def test_the_first_backend_is_the_default() -> None:
    cluster = {"kubernetes.namespace": "tes", "kubernetes.image": "i"}
    assert app.backend_names(configuration.load(None, {}, {})) == ("local",)
    assert app.backend_names(configuration.load(None, {}, cluster)) == ("local", "kubernetes")
    alone = configuration.load(None, {}, {**cluster, "local.enabled": False, "kubernetes.selectors": {"Node_Pool": "pool"}})
    app.check(alone)
    assert list(app.targets(alone)) == ["kubernetes"]
    assert app.about(alone).parameters[-1] == "node_pool"
    with pytest.raises(errors.SettingsError, match=r"kubernetes\.namespace: must be named"):
        app.check(configuration.load(None, {}, {"kubernetes.image": "i"}))
    assert "Kubernetes" in app.about(alone).description


def test_limits_and_the_audit_log_are_off_by_default_and_follow_the_settings(tmp_path: pathlib.Path) -> None:
    store = SqliteStore(tmp_path / "tasks.sqlite")
    try:
        plain = app.service(configuration.load(None, {}, {"data": str(tmp_path), "local.engine": "sandbox"}), store)
        assert (plain.limits, plain.audit) == (None, None)
        file = tmp_path / "audit.jsonl"
        flags = {"data": str(tmp_path), "local.engine": "sandbox", "limits.tasks": 1, "log.audit": str(file), "sandbox.allow_host": True}
        bound = app.service(configuration.load(None, {}, flags), store)
        task = Task(executors=(Executor(image="host", command=("true",)),))
        bound.create(Principal("alice"), task).result()
        with pytest.raises(errors.TooMany):
            bound.create(Principal("alice"), task)
        bound.create(Principal("bob"), task).result()
        assert [line["owner"] for line in map(json.loads, file.read_text().splitlines())] == ["alice", "bob"]
    finally:
        store.close()


@pytest.mark.parametrize(
    ("flags", "is_there"),
    [({}, False), ({"log.audit": "log"}, True), ({"auth.modes": ["basic"]}, True), ({"auth.modes": ["basic"], "log.audit": "none"}, False)],
)
def test_sign_in_brings_the_audit_log_with_it(flags: dict[str, object], is_there: bool) -> None:
    assert (audit_rules.of_server(configuration.load(None, {}, flags), app.clock) is not None) is is_there
