"""What may be shown."""

from __future__ import annotations

import errno
import os

import pytest

from tes_server import errors
from tes_server.filer import wording


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://user:pw@host:8/a/b?sig=1&x=@/y", "https://host:8/a/b?..."),
        ("https://host/a@b", "https://host/a@b"),
        ("https://host/a#fragment?x", "https://host/a"),
        ("file:///a%20b/c@d", "file:///a%20b/c@d"),
        ("https://u:p?w@host/x", "https://host/x"),
        ("nonsense", "nonsense"),
        (os.fsdecode(b"file:///\xff"), "file:///\\xff"),
    ],
)
def test_redacted(url: str, shown: str) -> None:
    assert wording.redacted(url) == shown


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://h/d", "http://h/d/a%20b/100%25%3F%23"),
        ("https://h/d/?sig=1", "https://h/d/a%20b/100%25%3F%23?sig=1"),
        ("ftp://h/d?e", "ftp://h/d?e/a%20b/100%25%3F%23"),
        ("file:///d?e", "file:///d?e/a%20b/100%25%3F%23"),
        ("/d", "/d/a b/100%?#"),
        ("s3://bucket/d?e/", "s3://bucket/d?e/a b/100%?#"),
    ],
)
def test_below_in_the_form_of_the_url(url: str, shown: str) -> None:
    assert wording.below(url, "a b/100%?#") == shown
    assert wording.below(url, "") == url


def test_failure_is_worded_once() -> None:
    first = wording.failure(errors.StagingError("broke", "INPUT_ERROR", transient=True), wording.INPUT, "/inputs/0", "x://y")
    assert (first.public, first.code, first.transient) == ("/inputs/0: x://y: broke", "INPUT_ERROR", True)
    assert wording.failure(first, wording.INPUT, "/inputs/1", "other") is first


def test_failure_shows_no_path_of_this_machine() -> None:
    cause = OSError(errno.EACCES, os.strerror(errno.EACCES), "/var/lib/server/volume/x")
    assert wording.failure(cause, wording.OUTPUT, "/outputs/0", "/work/x").public == "/outputs/0: /work/x: permission denied"
