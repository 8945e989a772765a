"""What all sandboxes of this machine share and no image brings: the image `host` as a root file system, and the network's names.

Both are small copies below our own data, made anew whenever the files of /etc that they come from have changed: a sandbox
then needs one overlay instead of forty mounts. Only what everybody may read is copied. A tree is shared and must never be
written to once it has its name; it is removed when no supervisor holds it any more.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pathlib
import shutil
import stat
import tempfile
import threading
import time

from tes_server.filer import rooted
from tes_server.runner import host

HOSTNAME = "tes"
LOOK = 1.0
"""Seconds between two looks whether files of /etc have changed."""

HOST, NAMES = "host", "names"
"""Directories of a tree: a root file system; and one with etc/{hosts,hostname,resolv.conf} alone, to lie over an image."""

_ETC = pathlib.Path("/etc")


class HostTree:
    """The newest tree below `directory`. `owner`: id of its files (-1: us). Thread-safe; processes may share a directory."""

    def __init__(self, directory: pathlib.Path, owner: int) -> None:
        directory.mkdir(mode=0o700, exist_ok=True)
        self._directory = directory
        self._owner = owner
        self._lock = threading.Lock()
        self._seen: object = None
        self._looked = 0.0
        self._path = directory
        self._held: rooted.Descriptor | None = None

    def hold(self) -> tuple[pathlib.Path, int]:
        """The tree of now, and a descriptor: while anybody has that open, the tree stays. The caller closes it."""
        with self._lock:
            now = time.monotonic()
            if self._held is None or now - self._looked >= LOOK:
                seen = _fingerprint()
                if self._held is None or seen != self._seen:
                    self._path, self._held = self._make()
                    self._seen = seen
                    self._sweep()
                self._looked = now
            return self._path, os.dup(self._held.fd)  # one lock, until the last of its descriptors is closed

    def _make(self) -> tuple[pathlib.Path, rooted.Descriptor]:
        while True:
            path = pathlib.Path(tempfile.mkdtemp(dir=self._directory))
            held = rooted.Descriptor(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
            fcntl.flock(held.fd, fcntl.LOCK_SH)
            if os.fstat(held.fd).st_nlink:  # else another process took it for a leftover
                _fill(path, self._owner)
                return path, held

    def _sweep(self) -> None:
        """Remove trees that nobody holds: of before the last change, or of a server that is gone."""
        for path in self._directory.iterdir():
            if path == self._path:
                continue
            with contextlib.suppress(OSError):  # held, or just not removable: looked at again after the next change
                held = rooted.Descriptor(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC))
                fcntl.flock(held.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path)


def _fill(tree: pathlib.Path, owner: int) -> None:
    root, names = tree / HOST, tree / NAMES
    for directory in (root, root / "etc", root / "tmp", root / "var", root / "var/tmp", names, names / "etc"):
        directory.mkdir()
    for pattern in host.ETC:
        for path in sorted(_ETC.glob(pattern)):
            _copy(path, root / path.relative_to("/"))
    for name in host.MERGED:
        if (merged := pathlib.Path(name)).is_symlink():
            (root / merged.name).symlink_to(merged.readlink())
    for name, text in _names().items():
        for etc in (root / "etc", names / "etc"):
            (etc / name).unlink(missing_ok=True)  # resolv.conf is often a link
            (etc / name).write_text(text, errors="surrogateescape")
    for place, _, files in os.walk(tree):
        for path in (pathlib.Path(place), *(pathlib.Path(place, name) for name in files)):
            if not path.is_symlink():
                path.chmod(0o755 if path.is_dir() else 0o644 | path.stat().st_mode & 0o111)
            os.chown(path, owner, owner, follow_symlinks=False)
    for shared in (root / "tmp", root / "var/tmp"):
        shared.chmod(0o1777)


def _copy(source: pathlib.Path, target: pathlib.Path) -> None:
    """What everybody may read, links as they are. What vanishes meanwhile was not there."""
    with contextlib.suppress(FileNotFoundError):
        found = source.lstat()
        target.parent.mkdir(parents=True, exist_ok=True)
        if stat.S_ISLNK(found.st_mode):
            target.symlink_to(source.readlink())
        elif stat.S_ISDIR(found.st_mode) and found.st_mode & 0o005 == 0o005:
            target.mkdir(exist_ok=True)
            for entry in sorted(source.iterdir()):
                _copy(entry, target / entry.name)
        elif stat.S_ISREG(found.st_mode) and found.st_mode & 0o004:
            shutil.copy2(source, target)


def _names() -> dict[str, str]:
    """hosts (ours name the sandbox itself: Java looks it up), hostname and resolv.conf; absent ones are empty."""
    texts = {}
    for name in ("hosts", "resolv.conf"):
        try:
            texts[name] = (_ETC / name).read_text(errors="surrogateescape")
        except OSError:
            texts[name] = ""
    texts["hosts"] = (texts["hosts"] or "127.0.0.1\tlocalhost\n::1\tlocalhost\n").rstrip("\n") + f"\n127.0.0.1\t{HOSTNAME}\n"
    return {**texts, "hostname": f"{HOSTNAME}\n"}


def _fingerprint() -> object:
    """Changes when a named file of /etc does, or the list of a named directory; deeper changes are seen at the next start."""
    return [_stamp(_ETC), *(_stamp(_ETC / name) for name in host.ETC if "*" not in name)]


def _stamp(path: pathlib.Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
