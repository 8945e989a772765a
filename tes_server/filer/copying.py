"""Bytes from one open file to another: in the kernel where it can, holes kept, stoppable.

Nothing here opens or names a file. All loops release the GIL while they wait for the disk.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

from tes_server.filer.control import Control

PIECE = 16 * 1024 * 1024
"""Bytes moved between two looks at the control: a fraction of a second even on a slow disk."""
BUFFER = 1024 * 1024
"""Bytes read at once where Python must hold them."""

_UNSUPPORTED = frozenset({errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.EBADF})
"""How kernels and file systems say that copy_file_range is not for this pair of files."""


def copy(source: int, target: int, control: Control) -> int:
    """Copy a whole regular file, as long as it is now, into the empty file `target`; returns the number of bytes."""
    status = os.fstat(source)
    size = status.st_size
    if size == 0:
        # Also what /proc says of files whose bytes are made on reading.
        return _copy_by_hand(source, target, 0, None, control)
    # Fewer blocks than bytes: a task may declare terabytes of holes that nobody has the disk to write out.
    if status.st_blocks * 512 >= size:
        return _copy_range(source, target, 0, size, control)
    for start, end in _extents(source, size):
        _copy_range(source, target, start, end, control)
    os.ftruncate(target, size)
    return size


def _extents(fd: int, size: int) -> Iterator[tuple[int, int]]:
    position = 0
    while position < size:
        try:
            start = os.lseek(fd, position, os.SEEK_DATA)
        except OSError as cause:
            if cause.errno == errno.ENXIO:  # nothing but a hole up to the end
                return
            yield position, size
            return
        position = os.lseek(fd, start, os.SEEK_HOLE)
        yield start, position


def _copy_range(source: int, target: int, start: int, end: int, control: Control) -> int:
    """Copy from `start` to `end`, or to where the file ends if somebody made it shorter; returns the position reached."""
    position = start
    while position < end:
        control.check()
        try:
            moved = os.copy_file_range(source, target, min(PIECE, end - position), position, position)
        except OSError as cause:
            if cause.errno not in _UNSUPPORTED:
                raise
            return _copy_by_hand(source, target, position, end, control)
        if moved == 0:
            # The end; or a file system whose files the kernel cannot splice, as some answered before Linux 5.19.
            return _copy_by_hand(source, target, position, end, control)
        position += moved
        control.moved(moved)
    return position


def _copy_by_hand(source: int, target: int, position: int, end: int | None, control: Control) -> int:
    while end is None or position < end:
        control.check()
        data = os.pread(source, BUFFER if end is None else min(BUFFER, end - position), position)
        if not data:
            break
        position += write(target, data, position)
        control.moved(len(data))
    return position


def write(fd: int, data: bytes | memoryview, position: int) -> int:
    """Write all of `data` at `position`; returns its length."""
    left = memoryview(data)
    while left:
        written = os.pwrite(fd, left, position)
        position += written
        left = left[written:]
    return len(data)


def same(one: int, other: int, control: Control) -> bool:
    """True if both files hold the same bytes."""
    position = 0
    while True:
        control.check()
        data = os.pread(one, BUFFER, position)
        if data != os.pread(other, BUFFER, position):
            return False
        if not data:
            return True
        position += len(data)
