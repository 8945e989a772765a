"""Which paths in a volume match a pattern.

Directories are opened through `rooted` only, and listed only where the pattern does not say the name.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator

from tes_server import errors
from tes_server.filer import globs, rooted, tree
from tes_server.filer.control import Control
from tes_server.filer.rooted import Realm
from tes_server.telemetry import Code

LINKS = 10_000
"""Links to directories followed for one pattern: a few that lead back to where they are make endless paths."""


def find(realm: Realm, path: str, control: Control, count: Callable[[int], None] = lambda _: None) -> list[str]:
    """Container paths that match, sorted; a file of just that name counts too (`a[1].txt`).

    What lies below a path that matches is not listed again. `count` is told how many there are, and may refuse. Raises OSError, StagingError, or Canceled.
    """
    found = set[str]()
    try:
        patterns = globs.alternatives(path)
    except globs.TooMany as cause:
        raise errors.StagingError(
            f"the pattern is longer than {globs.LONGEST} characters or has more than {globs.MOST} alternatives", Code.OUTPUT_ERROR
        ) from cause
    for pattern in patterns:
        for match in _matches(realm, pattern, control):
            found.add(match)
            count(len(found))
    with contextlib.suppress(OSError):  # as a name the pattern may be too long, or below a file
        if realm.place(path).status is not None:
            found.add(path)
    return sorted(match for match in found if not any(parent in found for parent in _parents(match)))


def _matches(realm: Realm, pattern: globs.Pattern, control: Control) -> Iterator[str]:
    waiting = [("", pattern.start())]
    links = 0
    while waiting:
        folder, states = waiting.pop()
        for name, mode in _entries(realm, folder, pattern.next_names(states)):
            control.check()
            after = pattern.step(states, name)
            path = f"{folder}/{name}"
            if pattern.ends(after):
                yield path
            if not pattern.goes_on(after) or path.count("/") > tree.DEPTH:
                continue
            if stat.S_ISLNK(mode) and not pattern.crosses(after):
                links += 1
                if links > LINKS:
                    raise OSError(errno.ELOOP, "too many links to directories match the pattern")
                waiting.append((path, after))
            elif stat.S_ISDIR(mode):
                waiting.append((path, after))


def _entries(realm: Realm, path: str, known: frozenset[str] | None) -> Iterator[tuple[str, int]]:
    """Names in a directory (those `known`, else all) with their modes, links not followed; nothing if it is none."""
    try:
        place = realm.place(path)
    except NotADirectoryError:
        return
    if place.status is None or place.rest:
        return
    for name in sorted(rooted.names(place.folder) if known is None else known):
        try:
            yield name, os.lstat(name, dir_fd=place.folder.fd).st_mode
        except FileNotFoundError:
            continue


def _parents(path: str) -> Iterator[str]:
    while path := path.rpartition("/")[0]:
        yield path
