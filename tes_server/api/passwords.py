"""Sign-in by name and password (RFC 7617), against the users file.

Whether a name exists must not show: an unknown one is checked against a hash that nothing fits, with the same work, and is
told the same. The file is looked at again when it changes; while it cannot be used nobody is let in. Must never log or keep
a password.
"""

from __future__ import annotations

import base64
import binascii
import logging
import pathlib
import secrets
import threading
import time

import argon2
import argon2.exceptions

from tes_server import errors, telemetry, users_file
from tes_server.api.methods import Verified
from tes_server.model.principal import Principal

logger = logging.getLogger(__name__)

LOOK = 1.0
"""Seconds between two looks at whether the file has changed."""

KEPT = 60.0
"""Seconds after its last use for which a password that was right is not checked again: the same file would say the same. So who is at work
never has to wait behind those who guess."""

LONGEST = 8192
"""Signs of base64: a name of 200 characters, a password of 1,024, of four bytes each, and a third more."""

WRONG = "user name or password is not right"


class Passwords:
    """The method "basic". `verify` may be called from several threads."""

    scheme = "basic"
    threads = 2  # argon2 takes 64 MiB and some 50 ms of four threads each time: more at once would starve the API

    def __init__(self, path: pathlib.Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._looked = float("-inf")
        self._stamp: object = None
        self._users: dict[str, users_file.User] = {}
        self._fault = ""
        self._nobody = ""
        self._look()

    def challenge(self, fault: errors.Unauthorized | None) -> str:  # noqa: ARG002 - other methods tell what is wrong
        """The value of WWW-Authenticate."""
        return 'Basic realm="tes-server", charset="UTF-8"'

    def version(self, now: float) -> object:
        """Another value once the file has changed: what was found out before no longer holds."""
        if now - self._looked > LOOK:
            self._looked = now
            if _stamp(self._path) != self._stamp:
                self._look()
        return self._stamp

    def _look(self) -> None:
        with self._lock:
            self._stamp = _stamp(self._path)
            try:
                self._users, self._fault = users_file.read(self._path), ""
            except errors.SettingsError as cause:
                self._users, self._fault = {}, str(cause)
                telemetry.log(logger, logging.ERROR, "users.unusable", error=self._fault)  # once for each change of the file
            hashes = [user.hash for user in self._users.values()]
            if hashes:
                self._nobody = _unmatched(argon2.extract_parameters(hashes[0]), self._nobody)
            elif not self._nobody:
                self._nobody = _unmatched(argon2.profiles.RFC_9106_LOW_MEMORY, "")

    def verify(self, credentials: str) -> Verified:
        """Who has these credentials. Blocks for as long as argon2 takes. Raises Unauthorized, or Unavailable while there is no usable file."""
        name, password = _parts(credentials)
        with self._lock:
            user, nobody, broken = self._users.get(name), self._nobody, self._fault
        if broken:
            raise errors.Unavailable("sign-in by password is not available now", 10.0, broken)
        right = _fits(user.hash if user is not None else nobody, password)
        if user is None or not right:
            fault = errors.Unauthorized(WRONG, "password")
            fault.who = name if user is not None else ""
            raise fault
        return Verified(Principal(user.owner, user.role, who="" if user.owner == user.name else user.name), time.monotonic() + KEPT, renews=KEPT)


def _stamp(path: pathlib.Path) -> object:
    """What changes with the file, or with who may write it: a Secret of Kubernetes is exchanged by a link, others are rewritten."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size


def _unmatched(parameters: argon2.Parameters, before: str) -> str:
    """A hash that no password fits, as dear to check as those of the file; the one before if it is."""
    if before and argon2.extract_parameters(before) == parameters:
        return before
    return argon2.PasswordHasher.from_parameters(parameters).hash(secrets.token_bytes(32))


def _parts(credentials: str) -> tuple[str, str]:
    if len(credentials) > LONGEST:
        raise errors.Unauthorized("the credentials are longer than any user name with a password", "malformed")
    try:
        name, colon, password = base64.b64decode(credentials, validate=True).decode("utf-8").partition(":")
    except (binascii.Error, ValueError):
        name = colon = password = ""
    if not colon:
        raise errors.Unauthorized("the credentials are not base64 of name:password in UTF-8", "malformed")
    return name, password


def _fits(hashed: str, password: str) -> bool:
    try:
        return argon2.PasswordHasher().verify(hashed, password)
    except (argon2.exceptions.VerificationError, argon2.exceptions.InvalidHashError):
        return False
