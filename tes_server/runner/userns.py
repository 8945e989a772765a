"""User namespaces: which ids tasks can have, why this kernel may refuse, and the one command that allows. Changes no setting."""

from __future__ import annotations

import os
import pathlib

IDS = (200_000, 65_536)
"""First id and number of ids of tasks of a root server: above every ordinary user's."""

# Setting, the value that refuses, the one that allows.
_SETTINGS = (
    ("kernel.apparmor_restrict_unprivileged_userns", "1", "0"),
    ("kernel.unprivileged_userns_clone", "0", "1"),
    ("user.max_user_namespaces", "0", "15000"),
)


def ids(table: pathlib.Path = pathlib.Path("/proc/self/uid_map")) -> tuple[int, int] | None:
    """IDS for a server that is root and has them to give; None where tasks can only be the user that the server is.

    `table` has lines of: first id here, first id outside, how many. A rootless container's root has few ids of its own.
    """
    if os.geteuid() != 0:
        return None
    ranges = [(int(first), int(first) + int(count)) for first, _, count in map(str.split, table.read_text().splitlines())]
    return IDS if any(first <= IDS[0] and sum(IDS) <= end for first, end in ranges) else None


def advice(sysctl: pathlib.Path = pathlib.Path("/proc/sys")) -> str:
    """ " (...)" with what to do if a setting stands in the way, else ""."""
    for name, refuses, allows in _SETTINGS:
        try:
            found = sysctl.joinpath(*name.split(".")).read_text().strip()
        except OSError:
            continue
        if found == refuses:
            return f" (this machine refuses user namespaces; allow them: sudo sysctl -w {name}={allows})"
    return ""
