"""Which emulators of this machine are alive, and what dead ones have left. `kind`: `aws-batch`, `azure-batch`."""

from __future__ import annotations

import pathlib
import shutil
import socket
import tempfile


class Alive:
    """An address that nobody else can have while this emulator lives: the kernel frees it however the process ends."""

    def __init__(self, kind: str, emulator: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(_address(kind, emulator))

    def close(self) -> None:
        self._socket.close()


def alive(kind: str, emulator: str) -> bool:
    with socket.socket(socket.AF_UNIX) as other:
        try:
            other.bind(_address(kind, emulator))
        except OSError:
            return True
    return False


def directory(kind: str) -> str:
    """Beginning of the names of their temporary directories; the id and a `-` follow."""
    return f"tes-{kind}-"


def remove_directories(kind: str) -> None:
    """Of dead emulators."""
    for path in pathlib.Path(tempfile.gettempdir()).glob(f"{directory(kind)}*"):
        if not alive(kind, path.name.removeprefix(directory(kind)).partition("-")[0]):
            shutil.rmtree(path, ignore_errors=True)


def _address(kind: str, emulator: str) -> str:
    return f"\0tes-{kind}-{emulator}"
