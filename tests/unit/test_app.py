"""Settings that name a store or backend that there is not are refused before anything starts, by their key."""

from __future__ import annotations

from typing import Any

import pytest

from tes_server import app, configuration, errors


@pytest.mark.parametrize(
    ("tree", "where"),
    [
        ({"files.roots": ["a"]}, "files.roots[0]"),  # the site's rules are asked too
        ({"routes": [{"backend": "local"}, {"backend": "mars"}]}, "routes[1].backend"),
        ({"store.url": "postgres:"}, "store.url"),
    ],
)
def test_what_there_is_not_is_named(tree: dict[str, Any], where: str) -> None:
    with pytest.raises(errors.SettingsError) as caught:
        app.check(configuration.load(None, {}, tree))
    assert caught.value.where == where
