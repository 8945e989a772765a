"""What of the site's files and stores one owner's tasks may use: prefixes of urls, and whether a place lies at or below one. Pure.

The same look is taken when a task is created, and, links followed, by the filer when it moves the bytes: a `Reach` travels with the plan.
It must never be asked about urls that a task reaches without the site's identity: http(s), ftp(s), and blobs with a signature of their own.
"""

from __future__ import annotations

import fnmatch
import functools
import posixpath
import urllib.parse
from collections.abc import Collection, Iterator, Sequence

import msgspec

from tes_server.model import principal
from tes_server.plan import objects, paths


class Reach(msgspec.Struct, frozen=True, omit_defaults=True):
    """Whose task it is, and what it may use: what lies at or below `prefixes`, `file:///path` (percent-encoded) or as `objects.rule_of` reads them."""

    owner: str
    prefixes: tuple[str, ...] = ()

    @property
    def directories(self) -> tuple[str, ...]:
        """Those that are directories of the machine where files are moved, as absolute paths."""
        return _directories(self.prefixes)

    def covers(self, url: str, *, parent: bool = False) -> bool:
        """True if a resolved url of a file or an object may be used; `parent`: if the directory may that holds it.

        Lexical: links in its way are the filer's matter.
        """
        if url.startswith("file://"):
            path = urllib.parse.unquote(url.removeprefix("file://")).rstrip("/") or "/"
            return self.covers_path(paths.parent(path) if parent else path)
        try:
            place = objects.place_of(url)
        except objects.Malformed:
            return False
        if place is not None and parent and not place.key.endswith("/"):
            return self.covers_place(place) and self.covers_place(msgspec.structs.replace(place, key=place.key.rpartition("/")[0]))
        return place is not None and self.covers_place(place)

    def covers_path(self, path: str) -> bool:
        """The same for a normalised absolute path."""
        return any(paths.below(path, directory) for directory in self.directories)

    def covers_place(self, place: objects.Place) -> bool:
        """The same for an object, or what is below it."""
        if objects.fault(place.key.rstrip("/")) or (place.kind == "az" and "\\" in place.key):
            return False  # Azure's tools take a backslash for a slash: `alice/..\\bob` must not become somebody else's
        return any(rule.covers(place) for rule in _rules(self.prefixes))

    def within(self, root: str, real: str) -> Iterator[str]:
        """What may be used of a root that really is at `real`. Below it prefixes are taken by name: who may write there must not move them by a link."""
        for directory in self.directories:
            if paths.below(root, directory):
                yield real
            elif paths.below(directory, root):
                yield posixpath.join(real, directory.removeprefix(root).lstrip("/"))


@functools.lru_cache(maxsize=4096)
def _directories(prefixes: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(urllib.parse.unquote(prefix.removeprefix("file://")).rstrip("/") or "/" for prefix in prefixes if prefix.startswith("file://"))


@functools.lru_cache(maxsize=4096)
def _rules(prefixes: tuple[str, ...]) -> tuple[objects.Rule, ...]:
    return tuple(objects.rule_of(prefix, write=True) for prefix in prefixes if not prefix.startswith("file://"))


def fits(owner: str, patterns: Collection[str]) -> bool:
    """True if an owner is one of those that are named, by name or by shell pattern. No pattern has one who cannot sign in: `anonymous`, the server itself."""
    return owner in patterns or (not principal.fault_of(owner) and any(fnmatch.fnmatchcase(owner, pattern) for pattern in patterns))


def theirs(rules: Sequence[objects.Rule], owner: str) -> tuple[objects.Rule, ...]:
    """The stores of a site that the tasks of an owner may use."""
    return tuple(rule for rule in rules if not rule.owners or fits(owner, rule.owners))
