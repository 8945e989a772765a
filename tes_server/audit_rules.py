"""From the settings to the audit log: that of a server, that of a command, and what both tell of image scans.

Must never keep a server or a command from its work: where the log cannot be written, that is told and no more.
"""

from __future__ import annotations

import datetime
import os
import pathlib
import pwd
import sys
from collections.abc import Callable
from typing import Protocol

from tes_server import scan_rules
from tes_server.control.audit import Audit, AuditFile, to_log
from tes_server.scan import policy
from tes_server.settings import Settings

Clock = Callable[[], datetime.datetime]


def place(settings: Settings) -> str:
    """ "log", "none", or the path of a file."""
    return settings.log.audit or ("log" if settings.auth.modes else "none")


def of_server(settings: Settings, clock: Clock) -> Audit | None:
    """Where a server writes who did what; None = nowhere."""
    where = place(settings)
    if where == "none":
        return None
    return Audit(to_log if where == "log" else AuditFile(pathlib.Path(where)), clock)


class Tell(Protocol):
    """Say that whoever gives this command did something."""

    def __call__(self, action: str, **fields: str) -> None:
        """`users.add`, `scan.forget`, ..., with what it was done to."""


def of_command(settings: Settings, clock: Clock) -> Tell:
    """What a command tells goes to the server's file, or to its own standard error where that is the server's log; where there is none, nowhere."""
    where, who = place(settings), _operator()
    audit = None if where == "none" else Audit(_to_stderr if where == "log" else AuditFile(pathlib.Path(where), follow=True), clock)

    def tell(action: str, **fields: str) -> None:
        if audit is not None:
            audit.operated(action, who, **fields)

    return tell


def _operator() -> str:
    """Who that is, as this machine knows them; behind sudo also whom it came from."""
    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container's user seldom has a name
        name = f"uid {os.getuid()}"
    before = os.environ.get("SUDO_USER", "")
    return f"{before} as {name}" if before and before != name else name


def scans(settings: Settings) -> dict[str, str]:
    """What is done about images, as it takes effect with a start: modes, the hash of the policy, and what the policy lets pass."""
    given = scan_rules.modes(settings)
    modes = {"": given.default, **given.backends, **{f"owner {pattern}": mode for pattern, mode in given.owners.items()}}
    told = {"mode": ", ".join(f"{who}: {mode}" if who else str(mode) for who, mode in modes.items())}
    if not scan_rules.enabled(settings):
        return told
    judged = scan_rules.policy(settings)
    return {
        **told,
        "place": settings.scan.place,
        "on_error": settings.scan.on_error,
        "policy": policy.fingerprint(judged),
        "exempt": ", ".join(judged.exempt),
        "ignore": ", ".join(map(_ignored, judged.ignore)),
    }


def _ignored(one: policy.Ignore) -> str:
    return f"{one.id}{one.package and f' of {one.package}'}{one.image and f' in {one.image}'} until {one.expires}"


def _to_stderr(line: bytes) -> None:
    sys.stderr.write(line.decode())
    sys.stderr.flush()
