"""Settings that name a store or backend that there is not are refused before anything starts, by their key."""

from __future__ import annotations

import pathlib
from typing import Any

import pytest

from tes_server import app, configuration, errors


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
