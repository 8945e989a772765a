"""The file of users who sign in with a password: one line a user, `name:role:owner:hash`.

Names have no colon (RFC 7617), argon2's hashes neither. An empty owner is the name itself; several users with one owner
share its tasks. Lines that begin with # and empty ones are left as they are. Must never see a password.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pathlib
import re
import stat
import tempfile
from collections.abc import Callable, Iterator

import msgspec

from tes_server import errors
from tes_server.model import principal
from tes_server.model.principal import Role

ROLES = (Role.USER, Role.VIEWER, Role.ADMIN)

_HASH = re.compile(r"\$argon2(id|i|d)\$v=19\$m=\d{1,7},t=\d{1,3},p=\d{1,2}\$[A-Za-z0-9+/]+\$[A-Za-z0-9+/]+")


class User(msgspec.Struct, frozen=True):
    """One line of the file. `hash` is an encoded argon2 hash (`$argon2id$v=19$...`); "" before there is one."""

    name: str
    role: Role
    owner: str
    hash: str = ""


def read(path: pathlib.Path) -> dict[str, User]:
    """The users by name. Raises `errors.SettingsError` for a file that cannot be read, used or trusted, without its contents."""
    try:
        with path.open(encoding="utf-8") as file:
            if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o002:
                raise errors.SettingsError("everybody on this machine may write to it: chmod 600", str(path))
            lines = file.read().splitlines()
    except (OSError, UnicodeDecodeError) as cause:
        why = cause.strerror if isinstance(cause, OSError) else "it is not UTF-8"
        raise errors.SettingsError(f"cannot be read: {why}", str(path)) from cause
    users: dict[str, User] = {}
    for number, line in enumerate(lines, 1):
        if not _is_user(line):
            continue
        user = _parsed(line, f"{path}, line {number}")
        if user.name in users:
            raise errors.SettingsError(f"has {user.name} a second time", f"{path}, line {number}")
        users[user.name] = user
    return users


def _is_user(line: str) -> bool:
    return bool(line.strip()) and not line.startswith("#")


def _parsed(line: str, where: str) -> User:
    fields = line.split(":")
    if len(fields) != 4:
        raise errors.SettingsError("must be name:role:owner:hash", where)
    name, role, owner, hashed = fields
    user = User(name, Role(role) if role in ROLES else Role.GUEST, owner or name, hashed)
    fault = fault_of(user) or ("" if _HASH.fullmatch(hashed) else "the hash is none of argon2's")
    if fault:
        raise errors.SettingsError(fault, where)
    return user


def fault_of(user: User) -> str:
    """What is wrong with it, whatever its hash, as a sentence; "" if nothing."""
    for what, text in (("the name", user.name), ("the owner", user.owner)):
        if ":" in text:
            return f"{what} must have no colon"
        if fault := principal.fault_of(text):
            return f"{what} {fault}"
    if user.name.startswith("#"):
        return "the name must not begin with #: such lines are comments"
    if user.role not in ROLES:
        return f"the role must be one of {', '.join(ROLES)}"
    return ""


def change(path: pathlib.Path, do: Callable[[dict[str, User]], None]) -> None:
    """Rewrite the file as `do` leaves the users that it is given; comments stay. Whole or not at all; a new file is its owner's alone.

    One change at a time: of two at once the later would bring back whom the earlier removed.
    """
    with _alone(path.resolve().parent):
        users = read(path) if path.exists() else {}
        do(users)
        kept = []
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
            if _is_user(line):
                user = users.pop(line.partition(":")[0], None)
                kept += [_line(user)] if user is not None else []
            else:
                kept.append(line)
        _write(path, "".join(f"{line}\n" for line in (*kept, *map(_line, users.values()))))


@contextlib.contextmanager
def _alone(directory: pathlib.Path) -> Iterator[None]:
    """Hold the lock of those who change files there: of the directory, for the file itself is another one after each change."""
    try:
        held = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as cause:
        raise errors.SettingsError(f"cannot be written: {cause.strerror}", str(directory)) from cause
    try:
        with contextlib.suppress(OSError):  # NFS locks no directory
            fcntl.flock(held, fcntl.LOCK_EX)
        yield
    finally:
        os.close(held)


def _line(user: User) -> str:
    return ":".join((user.name, user.role, "" if user.owner == user.name else user.owner, user.hash))


def _write(path: pathlib.Path, text: str) -> None:
    # A link stays one: what it leads to is what the server reads.
    target = path.resolve()
    try:
        there = target.stat() if target.exists() else None
        descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
                if there is not None:
                    os.fchmod(file.fileno(), stat.S_IMODE(there.st_mode))
                    with contextlib.suppress(PermissionError):  # who may write the directory need not be root
                        os.fchown(file.fileno(), there.st_uid, there.st_gid)
                file.flush()
                os.fsync(file.fileno())
            pathlib.Path(name).replace(target)
        except BaseException:
            pathlib.Path(name).unlink()
            raise
    except OSError as cause:
        raise errors.SettingsError(f"cannot be written: {cause.strerror}", str(path)) from cause
