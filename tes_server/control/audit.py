"""The audit log: who did what, one JSON object a line, in a file of its own or in the server's log.

For whoever has to tell later who started or stopped something, and who tried to get in. Must never hold a password, a token, a
task's content or the text of a wrong user name (people type passwords there), nor fail the request that it tells of.
"""

from __future__ import annotations

import contextlib
import datetime
import logging
import os
import pathlib
import threading
import time
from collections.abc import Callable

import msgspec

from tes_server import redaction, telemetry
from tes_server.control.rates import Rates
from tes_server.model.principal import Principal

logger = logging.getLogger(__name__)

REFUSED_PER_MINUTE = 600
"""Lines of refused sign-ins: whoever tries a million passwords fills no disk; the next line says how many were left out."""

REMIND = 60.0
"""Seconds after which the log has again that the file cannot be written."""


class AuditFile:
    """A file that several processes append to; opened anew after it was moved away, as logrotate does."""

    def __init__(self, path: pathlib.Path, *, follow: bool = False) -> None:
        """`follow`: a new file is for the owner of its directory, as far as this process may say so: root's command must leave no file that a
        server under another name cannot write to."""
        self._path = path
        self._follow = follow
        self._lock = threading.Lock()
        self._descriptor = -1
        self._told = float("-inf")

    def __call__(self, line: bytes) -> None:
        """Append one line, by one write: the kernel keeps those of several processes apart."""
        with self._lock:
            try:
                if not self._is_there():
                    self.close()
                    self._descriptor = self._opened()
                os.write(self._descriptor, line)
            except OSError as cause:
                if time.monotonic() - self._told > REMIND:
                    self._told = time.monotonic()
                    telemetry.log(logger, logging.ERROR, "audit.failed", path=str(self._path), error=str(cause))

    def _opened(self) -> int:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC
        if not self._follow:
            return os.open(self._path, flags | os.O_CREAT, 0o600)
        try:
            return os.open(self._path, flags)
        except FileNotFoundError:
            descriptor = os.open(self._path, flags | os.O_CREAT, 0o600)
            there = self._path.parent.stat()
            with contextlib.suppress(PermissionError):
                os.fchown(descriptor, there.st_uid, there.st_gid)
            return descriptor

    def _is_there(self) -> bool:
        if self._descriptor < 0:
            return False
        try:
            return os.path.samestat(self._path.stat(), os.fstat(self._descriptor))
        except FileNotFoundError:
            return False

    def close(self) -> None:
        """Idempotent."""
        if self._descriptor >= 0:
            with contextlib.suppress(OSError):
                os.close(self._descriptor)
            self._descriptor = -1


def to_log(line: bytes) -> None:
    """A line of the server's own log."""
    telemetry.log(logger, logging.INFO, "audit.line", **msgspec.json.decode(line))


class Audit:
    """Writes lines. `clock` gives the time in UTC. Safe from any thread."""

    def __init__(self, write: Callable[[bytes], None], clock: Callable[[], datetime.datetime]) -> None:
        self._write = write
        self._clock = clock
        self._refused = Rates(REFUSED_PER_MINUTE)
        self._omitted = 0

    def did(self, action: str, principal: Principal, **fields: str) -> None:
        """`principal` did something: `task.create`, `task.cancel`, ..."""
        self._line(action, owner=principal.owner, role=principal.role.value, who=principal.who or principal.owner, address=principal.address, **fields)

    def operated(self, action: str, who: str, **fields: str) -> None:
        """Somebody with the commands of this server's machine did something: `users.add`, `scan.forget`, ..."""
        self._line(action, role="operator", who=who, **fields)

    def took_effect(self, action: str, **fields: str) -> None:
        """Something holds from now on, because the settings say so: `scan.settings`."""
        self._line(action, **fields)

    def refused(self, address: str, method: str, reason: str, who: str) -> None:
        """Somebody at `address` had credentials that are not good. `who` is known to exist, or ""."""
        if self._refused.take("", time.monotonic()):
            self._omitted += 1
            return
        omitted, self._omitted = self._omitted, 0
        more = {"omitted": str(omitted)} if omitted else {}
        self._line("sign_in.refused", method=method, reason=reason, who=who, address=address, **more)

    def _line(self, action: str, **fields: str) -> None:
        at = self._clock().strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        self._write(redaction.json_bytes(msgspec.json.encode({"at": at, "action": action, **{name: text for name, text in fields.items() if text}})) + b"\n")
