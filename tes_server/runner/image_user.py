"""Who runs the command: the USER of an image, looked up in the image's own /etc/passwd and /etc/group as Docker does.

The files are the image's: links in them stay inside its root, and what is read is bounded. This module must never ask
this machine's own user database.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import msgspec

from tes_server import errors
from tes_server.filer import rooted
from tes_server.telemetry import Code

_BYTES_MAX = 1 << 20  # of passwd and of group: far more than any image has


class User(msgspec.Struct, frozen=True):
    """Ids as the sandbox sees them. `groups` are the supplementary ones."""

    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = ()
    home: str = "/"


def find(root: rooted.Realm, user: str, count: int) -> User:
    """`user` as an image's config has it: "", "name", "uid", each with ":group" or ":gid". Ids are below `count`.

    Raises `errors.EngineError` (IMAGE_ERROR) for names that the image does not know.
    """
    name, _, group = user.partition(":")
    name = name or "0"
    entry = next((line for line in _lines(root, "/etc/passwd", 7) if line[0] == name or (_is_number(name) and line[2] == str(int(name)))), None)
    if entry is not None:
        uid, gid, home, login = int(entry[2]), int(entry[3]), entry[5], entry[0]
    elif _is_number(name):
        uid, gid, home, login = int(name), 0, "/", ""
    else:
        raise errors.EngineError(f"the image's USER {user[:100]!r} is not in its /etc/passwd", Code.IMAGE_ERROR)
    groups: tuple[int, ...] = ()
    if group:
        gid = _gid(root, group, user)
    elif login:
        groups = tuple(int(line[2]) for line in _lines(root, "/etc/group", 4) if login in line[3].split(","))
    if not all(0 <= number < count for number in (uid, gid, *groups)):
        raise errors.EngineError(f"the image's USER {user[:100]!r} has an id that is not below {count}", Code.IMAGE_ERROR)
    return User(uid, gid, groups, home if home.startswith("/") else "/")


def _gid(root: rooted.Realm, group: str, user: str) -> int:
    for line in _lines(root, "/etc/group", 4):
        if line[0] == group or (_is_number(group) and line[2] == str(int(group))):
            return int(line[2])
    if _is_number(group):
        return int(group)
    raise errors.EngineError(f"the group of the image's USER {user[:100]!r} is not in its /etc/group", Code.IMAGE_ERROR)


def _lines(root: rooted.Realm, path: str, fields: int) -> Iterator[list[str]]:
    """Lines with so many fields, the third of them (and of passwd the fourth) a number; what is not so is passed over, as libc does."""
    try:
        place = root.find(path)
        descriptor = rooted.open_file(place.folder, place.rest[0] if place.rest else ".")
    except OSError:  # images of a single static program have none
        return
    with os.fdopen(descriptor, "rb") as file:
        text = file.read(_BYTES_MAX).decode(errors="replace")
    for line in text.splitlines():
        words = line.split(":")
        if len(words) >= fields and _is_number(words[2]) and (fields != 7 or _is_number(words[3])):
            yield words


def _is_number(text: str) -> bool:
    """An id is at most 2^32: longer numbers are none, and `int` refuses them if they are very long."""
    return text.isascii() and text.isdecimal() and len(text) <= 10
