"""Urls of object stores, and which rule covers them."""

from __future__ import annotations

import pytest

from tes_server.plan import objects
from tes_server.plan.objects import Place, Rule, place_of, rule_of


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("s3://bucket/a/b", Place("s3", "", "bucket", "a/b")),
        ("S3://bucket", Place("s3", "", "bucket", "")),
        ("s3://bucket/a b%20?x#y", Place("s3", "", "bucket", "a b%20?x#y")),
        ("s3://old_Bucket.name/x/", Place("s3", "", "old_Bucket.name", "x/")),
        ("gs://bucket/a", Place("gs", "", "bucket", "a")),
        ("az://account/container/a/b", Place("az", "account", "container", "a/b")),
        ("abfss://container@account.dfs.core.windows.net/a%20", Place("az", "account", "container", "a%20")),
        ("https://account.blob.core.windows.net/container/a%20b%3F?sv=1&sig=x", Place("az", "account", "container", "a b?", "sv=1&sig=x")),
        ("https://Account.Blob.core.windows.net/container/a", Place("az", "account", "container", "a")),
        ("https://example.org/container/a", None),
        ("https://account.blob.core.windows.net.example.org/container/a", None),
        ("file:///a", None),
        ("http://account.blob.core.windows.net/c/a", None),
    ],
)
def test_places(url: str, place: Place | None) -> None:
    assert place_of(url) == place


@pytest.mark.parametrize(
    "url",
    [
        "s3://",
        "s3:///key",
        "s3://host:80/key",
        "s3://user@host/key",
        "s3://a?b/key",
        "az://account",
        "az://a.example.org/container/key",
        "az://account/../key",
        "abfss://account/key",
        "abfss://c@account.dfs.core.example.org/key",
        "https://account.blob.core.windows.net/",
    ],
)
def test_urls_that_name_nothing(url: str) -> None:
    with pytest.raises(objects.Malformed):
        place_of(url)


@pytest.mark.parametrize(
    ("rule", "url", "covered"),
    [
        ("s3://bucket", "s3://bucket/a", True),
        ("s3://bucket/", "s3://bucket", True),
        ("s3://bucket", "s3://bucket-2/a", False),
        ("s3://bucket/a", "s3://bucket/a", True),
        ("s3://bucket/a", "s3://bucket/a/b", True),
        ("s3://bucket/a", "s3://bucket/ab", False),
        ("s3://bucket/a", "s3://bucket", False),
        ("s3://", "s3://anything/a", True),
        ("s3://", "gs://anything/a", False),
        ("az://account", "az://account/container/a", True),
        ("az://account", "https://account.blob.core.windows.net/container/a?sig=x", True),
        ("az://account/container", "abfss://container@account.dfs.core.windows.net/a", True),
        ("az://account/container", "az://account/container2/a", False),
        ("gs://bucket/x", "gs://bucket/x/", True),
    ],
)
def test_what_a_rule_covers(rule: str, url: str, covered: bool) -> None:
    assert (objects.covered([rule_of(rule, write=False)], url) == 0) is covered


@pytest.mark.parametrize("text", ["", "s3", "file:///a", "https://account.blob.core.windows.net/c", "az://A", "s3://a/../b@c:1x?"])
def test_rules_that_name_nothing(text: str) -> None:
    with pytest.raises(objects.Malformed):
        rule_of(text, write=False)


def test_the_longest_rule_decides() -> None:
    rules: list[Rule] = [rule_of(text, write=False) for text in ("s3://", "s3://bucket", "s3://bucket/a/b", "s3://bucket/a")]
    assert [objects.covered(rules, url) for url in ("s3://other/y", "s3://bucket/x", "s3://bucket/a/b/c", "s3://bucket/a/x", "gs://bucket/a")] == [
        0,
        1,
        2,
        3,
        None,
    ]


@pytest.mark.parametrize("key", ["a//b", "/a", "a/../b", "..", "./a", "a/.", "a\nb", "a\x7f", "a\0", "caf\udce9"])
def test_keys_that_cannot_be_paths(key: str) -> None:
    assert objects.fault(key)


@pytest.mark.parametrize("key", ["", "a", "a/b", "a b", "ü/日", "a\\b", "%2e%2e", "...", "a?b#c", "~", "a/..b", "'\"<>|*"])
def test_keys_that_can(key: str) -> None:
    assert objects.fault(key) == ""


def test_a_place_is_told_without_its_signature() -> None:
    place = place_of("https://account.blob.core.windows.net/container/a?sig=hunter2")
    assert place is not None
    assert place.url() == "az://account/container/a"
