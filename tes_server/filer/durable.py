"""One sync per task: everything that stage-out wrote survives a power cut before its end is published.

A few files are synced one by one, which leaves everybody else's unwritten data alone. For many files that would be one
journal commit each; then their file systems are synced once (syncfs), which costs about as much as `sync -f` does.
"""

from __future__ import annotations

import ctypes
import os
import threading

from tes_server.filer import rooted
from tes_server.filer.rooted import Descriptor

FEW = 16
"""Up to so many files and directories are synced singly: about where one syncfs of a busy disk gets cheaper."""

_libc = ctypes.CDLL(None, use_errno=True)


class Written:
    """What one stage step wrote on this machine. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._clear()

    def _clear(self) -> None:
        self._places: list[tuple[Descriptor, str]] = []
        self._disks: dict[int, Descriptor] = {}
        self._newest: Descriptor | None = None

    def add(self, folder: Descriptor, name: str = "") -> None:
        """The file `name` was put into `folder`, or without a name: `folder` changed. It must be open for reading."""
        with self._lock:
            if folder is not self._newest:  # the files of one directory come one after the other
                self._newest = folder
                self._disks.setdefault(os.fstat(folder.fd).st_dev, folder)
            if len(self._places) <= FEW:
                self._places.append((folder, name))

    def sync(self) -> None:
        """Return when all of it is durable, and forget it. Cannot be interrupted: the kernel's own syncs cannot."""
        with self._lock:
            places, disks = self._places, self._disks
            self._clear()
        if len(places) > FEW:
            for disk in disks.values():
                sync_disk(disk.fd)
            return
        for folder, name in places:
            if name:
                fd = rooted.open_file(folder, name)
                try:
                    os.fsync(fd)
                finally:
                    os.close(fd)
        # Names after contents: an entry that survives never leads to a file that did not.
        for folder in {id(folder): folder for folder, _ in places}.values():
            os.fsync(folder.fd)


def sync_disk(fd: int) -> None:
    """Return when everything that was written to the file system of `fd`, by anybody, is durable."""
    # Since Linux 5.8 syncfs also reports writes that failed.
    if _libc.syncfs(fd) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
