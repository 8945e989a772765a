"""The name of a data directory among all that share a store: made once, kept in it, told by every handle of its attempts.

Whoever has the directory is the only one who can find, observe, stop and clean up what runs there. Must never be made anew
while attempts are there: to everybody else they would be gone.
"""

from __future__ import annotations

import os
import pathlib
import re
import secrets
import socket

from tes_server import errors

FILE = "place"

_NAME = re.compile(r"[^/\s]{1,64}/[0-9a-f]{16}")


def place(directory: pathlib.Path) -> str:
    """`<host>/<random>`; the host is for people, and is that of the first start. Raises SettingsError where it cannot be read or kept."""
    path = directory / FILE
    try:
        if not path.exists():
            _keep(path, f"{_host()}/{secrets.token_hex(8)}")
        name = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as cause:
        why = (cause.strerror or str(cause)) if isinstance(cause, OSError) else "it is not text"
        raise errors.SettingsError(f"{path}, which names this data directory to other servers, cannot be read or written: {why}", "data") from cause
    if not _NAME.fullmatch(name):
        what = "its tasks that run are then tried again, here or elsewhere"
        raise errors.SettingsError(f"{path} does not hold the name of a data directory: restore it, or remove it ({what})", "data")
    return name


def _host() -> str:
    return re.sub(r"[/\s]", "-", socket.gethostname())[:64] or "host"


def _keep(path: pathlib.Path, name: str) -> None:
    """Durably, whole or not at all; one that another process made meanwhile stays."""
    temporary = path.with_name(f".{FILE}.{secrets.token_hex(4)}")
    try:
        with temporary.open("w") as file:
            file.write(name + "\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, path)
        except FileExistsError:
            return
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    finally:
        temporary.unlink(missing_ok=True)
