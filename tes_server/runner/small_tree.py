"""Deletes a directory of few entries in this process: most tasks leave few, and a process to delete them costs more than the task.

As tes-step does it (step/tree.c), from directory descriptor to directory descriptor: no link is ever followed, whoever made it.
What is large, or stands in the way, is left to tes-step, which also makes directories accessible and takes any depth.
"""

from __future__ import annotations

import errno
import os
import pathlib

MOST = 64
"""Entries above which a process of its own is the cheaper way: it holds up no other thread of the server."""

_ENTER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove(path: pathlib.Path) -> bool:
    """Delete the directory `path` and all in it; True if it is gone, or was not there. Else some of it may be left."""
    try:
        _remove(str(path), None, MOST)
    except OSError:
        return not os.path.lexists(path)
    return True


def _remove(name: str, parent: int | None, left: int) -> int:
    """Returns how many entries may still be deleted; OSError if none may."""
    try:
        os.rmdir(name, dir_fd=parent)  # most are empty, and of those not even the kernel's own (mode 0, in an overlay's work) needs opening
        return left
    except OSError as cause:
        if cause.errno != errno.ENOTEMPTY:
            raise
    directory = os.open(name, _ENTER, dir_fd=parent)
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                if left == 0:
                    raise OSError(errno.E2BIG, "too many entries")
                left -= 1
                if entry.is_dir(follow_symlinks=False):
                    left = _remove(entry.name, directory, left)
                else:
                    os.unlink(entry.name, dir_fd=directory)
    finally:
        os.close(directory)
    os.rmdir(name, dir_fd=parent)
    return left
