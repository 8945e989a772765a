"""Urls of object stores as data: which store and key a url names, and which rule of the site covers it.

`s3://bucket/key`, `gs://bucket/key`, `az://account/container/key` (as Nextflow writes it, clients.md section 2) and
`abfss://container@account.dfs.core.windows.net/key` hold keys as they are, like every tool that writes such urls: `%`, `?`,
`#` and spaces stand for themselves. `https://account.blob.core.windows.net/container/key` is percent-encoded and may end
in a query with a shared access signature. Pure; it must never decide whether a store can be reached.
"""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Sequence
from typing import Literal

import msgspec

Kind = Literal["s3", "az", "gs"]

SCHEMES: frozenset[str] = frozenset({"s3", "gs", "az", "abfs", "abfss"})
"""Schemes whose urls always name an object store. `https` may."""

# https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html, with the underscores and capitals of old
# and of S3-compatible ones. Nothing in them can lead a request to another host.
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")
_ACCOUNT = re.compile(r"[a-z0-9]{3,24}")
_CONTAINER = re.compile(r"[a-z0-9$][a-z0-9-]{2,62}")
_BLOB_HOST = re.compile(r"([a-z0-9]{3,24})\.blob\.core\.(?:windows\.net|chinacloudapi\.cn|usgovcloudapi\.net)")
_LAKE_HOST = re.compile(r"([^@/]+)@([a-z0-9]{3,24})\.dfs\.core\.(?:windows\.net|chinacloudapi\.cn|usgovcloudapi\.net)")
_RULES = {
    "bucket": "3 to 63 letters, digits, '-', '_' and '.'",
    "storage account": "3 to 24 lower-case letters and digits",
    "container": "3 to 63 lower-case letters, digits and '-'",
}


class Malformed(ValueError):
    """A url that looks like an object store's and names nothing; its text goes on after the url: "names no bucket"."""


class Place(msgspec.Struct, frozen=True):
    """An object or a prefix of a store. `account` is Azure's, "" elsewhere; `signature` is the query of an https url."""

    kind: Kind
    account: str
    bucket: str
    key: str
    signature: str = ""

    def url(self) -> str:
        """The place by its plain name, without signature: `az://account/container/key`."""
        return f"{self.kind}://" + "/".join(part for part in (self.account, self.bucket, self.key) if part)


class Rule(msgspec.Struct, frozen=True):
    """What a site allows: everything at or below `place`, empty parts of which mean any; to be read, and with `write` written.

    `owners`: only to the tasks of these (`reach.fits`); none = to everybody's.
    """

    place: Place
    write: bool = False
    owners: tuple[str, ...] = ()

    def covers(self, place: Place) -> bool:
        """True if `place` is at or below the rule's."""
        mine = self.place
        if mine.kind != place.kind or (mine.account and mine.account != place.account) or (mine.bucket and mine.bucket != place.bucket):
            return False
        prefix = mine.key.rstrip("/")
        return not prefix or place.key == prefix or place.key.startswith(prefix + "/")

    def width(self) -> tuple[int, int, int, bool]:
        """How much it names: of several rules that cover a place the one that names most decides, and of two for one place that with owners."""
        return len(self.place.account), len(self.place.bucket), len(self.place.key.rstrip("/")), bool(self.owners)


def place_of(url: str) -> Place | None:
    """The place that a url names; None if the url is no object store's. Raises Malformed."""
    scheme, _, rest = url.partition("://")
    scheme = scheme.lower()
    if scheme in ("s3", "gs"):
        bucket, _, key = rest.partition("/")
        return Place("s3" if scheme == "s3" else "gs", "", _checked(_BUCKET, bucket, "bucket"), key)
    if scheme == "az":
        account, _, rest = rest.partition("/")
        container, _, key = rest.partition("/")
        return Place("az", _checked(_ACCOUNT, account, "storage account"), _checked(_CONTAINER, container, "container"), key)
    if scheme in ("abfs", "abfss"):
        authority, _, key = rest.partition("/")
        found = _LAKE_HOST.fullmatch(authority)
        if found is None:
            raise Malformed("is not of the form abfss://container@account.dfs.core.windows.net/path")
        return Place("az", found[2], _checked(_CONTAINER, found[1], "container"), key)
    return _blob(rest) if scheme == "https" else None


def _blob(rest: str) -> Place | None:
    path, _, signature = rest.partition("#")[0].partition("?")
    host, _, path = path.partition("/")
    found = _BLOB_HOST.fullmatch(host.lower())
    if found is None:
        return None
    container, _, key = path.partition("/")
    return Place("az", found[1], _checked(_CONTAINER, container, "container"), urllib.parse.unquote(key, errors="surrogateescape"), signature)


def _checked(pattern: re.Pattern[str], name: str, what: str) -> str:
    if pattern.fullmatch(name) is None:
        raise Malformed(f"names no valid {what} ({_RULES[what]})" if name else f"names no {what}")
    return name


def rule_of(url: str, *, write: bool, owners: tuple[str, ...] = ()) -> Rule:
    """A rule from the url prefix of a setting: `s3://`, `s3://bucket`, `az://account`, `gs://bucket/prefix`. Raises Malformed."""
    scheme, mark, rest = url.rstrip("/").partition(":")
    rest = rest.removeprefix("//")
    if not mark or scheme not in ("s3", "az", "gs"):
        raise Malformed("must begin with s3://, az:// or gs://")
    kind: Kind = "s3" if scheme == "s3" else "az" if scheme == "az" else "gs"
    if not rest:
        return Rule(Place(kind, "", "", ""), write, owners)
    if kind == "az" and "/" not in rest:
        return Rule(Place(kind, _checked(_ACCOUNT, rest, "storage account"), "", ""), write, owners)
    place = place_of(f"{kind}://{rest}")
    return Rule(place, write, owners) if place else Rule(Place(kind, "", "", ""), write, owners)


def covering(rules: Sequence[Rule], place: Place) -> int | None:
    """The index of the rule that decides on a place, or None if none covers it."""
    fitting = [number for number, rule in enumerate(rules) if rule.covers(place)]
    return max(fitting, key=lambda number: rules[number].width(), default=None)


def covered(rules: Sequence[Rule], url: str) -> int | None:
    """As `covering`, of what a url names; None as well if that is no object."""
    try:
        place = place_of(url)
    except Malformed:
        return None
    return None if place is None else covering(rules, place)


def fault(key: str) -> str:
    """What is wrong with a key as the path of a file, or "": no store of ours is asked for such a key."""
    if any(part in (".", "..") for part in key.split("/")):
        return "holds '.' or '..' as a part of its key"
    if "//" in key or key.startswith("/"):
        return "holds an empty part ('//') in its key"
    if any(ord(character) < 32 or ord(character) == 127 for character in key):
        return "holds a control character in its key"
    if any(0xDC80 <= ord(character) <= 0xDCFF for character in key):
        return "holds a name that is no UTF-8"
    return ""
