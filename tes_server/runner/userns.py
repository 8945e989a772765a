"""User namespaces: which ids tasks can have, why this kernel may refuse, and the one command that allows. Changes no setting."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence

IDS = (200_000, 65_536)
"""First id and number of ids of tasks of a root server: above every ordinary user's."""

# Setting, the value that refuses, the one that allows; the last of them binds root too.
_SETTINGS = (
    ("kernel.apparmor_restrict_unprivileged_userns", "1", "0"),
    ("kernel.unprivileged_userns_clone", "0", "1"),
    ("user.max_user_namespaces", "0", "15000"),
)

_CONTAINER = (pathlib.Path("/.dockerenv"), pathlib.Path("/run/.containerenv"))  # Docker's mark, and Podman's
_UNCONFINED = " ".join(f"--security-opt {name}=unconfined" for name in ("seccomp", "apparmor", "systempaths"))

_SYS_ADMIN = 21  # /usr/include/linux/capability.h


def ids(process: pathlib.Path = pathlib.Path("/proc/self")) -> tuple[int, int] | None:
    """IDS for a server that is root and has them to give; None where tasks can only be the user that the server is.

    The root of a container mostly has not: it lacks CAP_SYS_ADMIN, or in a rootless one most of the ids.
    """
    if os.geteuid() != 0:
        return None
    powers = next(int(line.split()[1], 16) for line in (process / "status").read_text().splitlines() if line.startswith("CapEff:"))
    # Lines of: first id here, first id outside, how many.
    ranges = [(int(first), int(first) + int(count)) for first, _, count in map(str.split, (process / "uid_map").read_text().splitlines())]
    return IDS if powers >> _SYS_ADMIN & 1 and any(first <= IDS[0] and sum(IDS) <= end for first, end in ranges) else None


def advice(sysctl: pathlib.Path = pathlib.Path("/proc/sys"), marks: Sequence[pathlib.Path] = _CONTAINER) -> str:
    """ " (...)" with what to do if a setting, or a container around us, stands in the way, else ""."""
    for name, refuses, allows in _SETTINGS if ids() is None else _SETTINGS[-1:]:
        try:
            found = sysctl.joinpath(*name.split(".")).read_text().strip()
        except OSError:
            continue
        if found == refuses:
            return f" (this machine refuses user namespaces; allow them: sudo sysctl -w {name}={allows})"
    if any(mark.exists() for mark in marks):
        return f" (a container refuses user namespaces unless it is started with {_UNCONFINED})"
    return ""
