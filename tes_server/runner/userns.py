"""Why this kernel may refuse user namespaces, and the one command that allows them. Reads settings, changes none."""

from __future__ import annotations

import pathlib

# Setting, the value that refuses, the one that allows.
_SETTINGS = (
    ("kernel.apparmor_restrict_unprivileged_userns", "1", "0"),
    ("kernel.unprivileged_userns_clone", "0", "1"),
    ("user.max_user_namespaces", "0", "15000"),
)


def advice(sysctl: pathlib.Path = pathlib.Path("/proc/sys")) -> str:
    """ " (...)" with what to do if a setting stands in the way, else ""."""
    for name, refuses, allows in _SETTINGS:
        try:
            found = sysctl.joinpath(*name.split(".")).read_text().strip()
        except OSError:
            continue
        if found == refuses:
            return f" (this machine refuses user namespaces; allow them: sysctl -w {name}={allows})"
    return ""
