"""Which directories the executors of a task share: all container paths reduced to a few mounts.

Pure. The rules and their reasons are in DESIGN section 5 ("Mounts") and clients.md rows 24 and 25.
"""

from __future__ import annotations

import bisect
import functools
from collections.abc import Iterable, Sequence

from tes_server.errors import Invalid
from tes_server.plan.paths import below, parent
from tes_server.plan.steps import Mount, MountKind

TEMPORARY = "/tmp"  # noqa: S108 - the container's path, not this machine's
"""Always a root: every task has a fresh one."""

IMAGE_TREES = frozenset({"/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/libx32", "/proc", "/sbin", "/sys", "/usr"})
"""Trees that belong to images: any directory below may hold programs, so none is mounted over for the sake of a file in it."""

IMAGE_DIRECTORIES = IMAGE_TREES | {
    *("/", "/home", "/media", "/mnt", "/opt", "/root", "/run", "/srv", "/var"),
    *("/var/cache", "/var/lib", "/var/log", "/var/run", "/var/spool"),
}
"""Directories that images own themselves: never mounted over. Others below them may be."""

KERNEL_TREES = ("/dev/", "/proc/", "/sys/")
"""Nothing can be staged here."""


def tree_of(path: str) -> str:
    """The top-level directory of a normalised path: `/work` of `/work/a/b`."""
    return "/" + path[1:].partition("/")[0]


def owned(directory: str) -> bool:
    """True if images own this directory, so that it must not be mounted over."""
    return directory in IMAGE_DIRECTORIES or tree_of(directory) in IMAGE_TREES


def root_for_file(path: str) -> str | None:
    """The root that a file needs, or None if it lies directly in an image's directory."""
    return _root_for_files_in(parent(path))


@functools.lru_cache(1024)  # the inputs of a task, and those of the next, lie in a few directories
def _root_for_files_in(directory: str) -> str | None:
    return None if owned(directory) else root_for_directory(directory)


def root_for_directory(path: str) -> str:
    """The root that a directory named by the task needs: its top-level directory where that is not an image's, else itself."""
    top = tree_of(path)
    return path if top in IMAGE_DIRECTORIES else top


def check_stageable(path: str, pointer: str) -> None:
    """Raise Invalid for a path in a kernel file system."""
    if f"{path}/".startswith(KERNEL_TREES):
        raise Invalid(f"{path} lies in a file system of the kernel, where nothing can be staged", pointer)


def check_directory(path: str, pointer: str) -> None:
    """Raise Invalid if a task names a directory that every image has for its own."""
    check_stageable(path, pointer)
    if path in IMAGE_DIRECTORIES:
        raise Invalid(f"{path} is a directory that images own; name a directory below it or another one", pointer)


def merge(directories: Iterable[str]) -> tuple[str, ...]:
    """The directories without those that lie inside another, in an order that `covered` can search."""
    merged: list[str] = []
    for directory in sorted(directories, key=_order):
        if not merged or not below(directory, merged[-1]):
            merged.append(directory)
    return tuple(merged)


def covered(path: str, merged: Sequence[str]) -> bool:
    """True if one of the directories is `path` or above it. `merged` comes from `merge`: only the last one up to `path` can be."""
    position = bisect.bisect_right(merged, _order(path), key=_order)
    return position > 0 and below(path, merged[position - 1])


def _order(path: str) -> str:
    """A sorting key that puts all that is below a directory right behind it ("/a-b" would come between "/a" and "/a/b")."""
    return path.replace("/", "\0")


def mounts(roots: Iterable[str], files: Iterable[str], live: dict[str, str]) -> tuple[Mount, ...]:
    """The mounts of a plan: merged roots, single input files outside of them, live directories (container path -> host path)."""
    hidden = merge(live)  # what the task writes there is in the live directory: a root would cover it
    return (
        *(Mount(root) for root in sorted(roots) if not covered(root, hidden)),
        *(Mount(path, MountKind.FILE) for path in sorted(files)),
        *(Mount(path, MountKind.LIVE, source) for path, source in sorted(live.items())),
    )
