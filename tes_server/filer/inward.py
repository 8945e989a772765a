"""Inputs into a task's volume: from the entries of a source to files, directories and links.

Sources are strangers: the names that they list are checked here. This module must never write outside the volume.
"""

from __future__ import annotations

import functools
import posixpath
import time
from collections.abc import Iterable, Sequence

from tes_server.errors import StagingError
from tes_server.filer import copying, local, schemes, wording
from tes_server.filer.allowance import Allowance, Measured
from tes_server.filer.control import Control
from tes_server.filer.crew import Batches, Crew
from tes_server.filer.manifest import Access
from tes_server.filer.progress import Progress
from tes_server.filer.rooted import Realm
from tes_server.filer.schemes import Directory, Failed, Left, Link, Schemes
from tes_server.filer.wording import INPUT, Notices
from tes_server.model.task import FileType
from tes_server.plan.steps import Fetch
from tes_server.telemetry import Code


class Inward:
    """One stage-in. Every error that leaves it is a StagingError that names the input."""

    def __init__(self, realm: Realm, access: Access, control: Control, attempt: str, progress: Progress) -> None:
        self.notices = Notices()
        self._realm = realm
        self._access = access
        self._progress = progress
        self._control = control
        self._attempt = attempt
        self._readers = Schemes(schemes.READERS, access, control, attempt)
        self._folders: dict[str, local.Folder] = {}
        self._allowance = Allowance(access, INPUT)

    def close(self) -> None:
        """Give back connections."""
        for reader in self._readers.used():
            reader.close()

    def directory(self, path: str) -> None:
        """Make a directory of the plan, mode 0777."""
        self._control.check()
        try:
            local.folder_at(self._realm, path)
        except OSError as cause:
            raise wording.failure(cause, INPUT, "the task's volume", path) from cause

    def fetch(self, fetch: Fetch, crew: Crew) -> None:
        """Start to place one input."""
        where = f"the content for {fetch.path}" if fetch.content is not None else wording.redacted(fetch.url)
        try:
            self._place(fetch, where, crew)
        except (OSError, StagingError) as cause:
            raise wording.failure(cause, INPUT, fetch.field, where) from cause

    def _entries(self, fetch: Fetch) -> Iterable[schemes.File | schemes.Entry]:
        if fetch.content is not None:
            return (_Content(fetch.content),)
        try:
            return self._readers.of(fetch.url).source(fetch.url, fetch.type is FileType.DIRECTORY)
        except KeyError as cause:
            raise StagingError("is of no scheme that this server can read from", Code.INPUT_ERROR) from cause

    def _place(self, fetch: Fetch, where: str, crew: Crew) -> None:
        batches = Batches[schemes.File](crew, functools.partial(self._put, fetch, where))
        for entry in self._entries(fetch):
            self._control.check()
            self._allowance.entry()
            _check_name(entry.name)
            if isinstance(entry, Directory):
                self._folder(fetch.path).directory(entry.name)
            elif isinstance(entry, Link):
                self._folder(fetch.path).link(entry)
            elif isinstance(entry, Left):
                self.notices.add(Code.INPUT_DENIED, f"{fetch.field}: {wording.join(where, entry.name)} {wording.printable(entry.why)}; it was left out")
            elif isinstance(entry, Failed):
                raise wording.failure(entry.cause, INPUT, fetch.field, wording.join(where, entry.name)) from entry.cause
            elif not entry.name and fetch.type is FileType.DIRECTORY:
                raise StagingError("is a file, and the input's type is DIRECTORY", Code.INPUT_ERROR)
            else:
                batches.add(entry)
        batches.flush()

    def _put(self, fetch: Fetch, where: str, files: Sequence[schemes.File]) -> None:
        scheme = "content" if fetch.content is not None else schemes.scheme_of(fetch.url, self._access)
        begun, sizes = time.monotonic(), list[int]()
        try:
            for file in files:
                folder, name = (fetch.path, file.name) if file.name else posixpath.split(fetch.path)
                try:
                    sizes.append(self._folder(folder).put(name, Measured(file, self._allowance)))
                except (OSError, StagingError) as cause:
                    raise wording.failure(cause, INPUT, fetch.field, wording.join(where, file.name)) from cause
        finally:
            self._progress.done(scheme, len(sizes), sum(sizes), time.monotonic() - begun)

    def _folder(self, path: str) -> local.Folder:
        """The directory at `path` of the volume. Kept for a while: inputs of one directory come one after the other."""
        folder = self._folders.get(path)
        if folder is None:
            folder = local.Folder(local.folder_at(self._realm, path), self._control, self._attempt)
            if len(self._folders) >= local.CACHED:
                self._folders.clear()
            self._folders[path] = folder
        return folder


class _Content:
    """The literal text of an input (schemes.File)."""

    name = ""
    executable = False

    def __init__(self, text: str) -> None:
        self._data = text.encode()
        self.size = len(self._data)

    def fill(self, fd: int, control: Control) -> int:
        control.check()
        return copying.write(fd, self._data, 0)


def _check_name(name: str) -> None:
    """StagingError for a name that would lead elsewhere: `..`, an absolute path, an empty part."""
    if name and any(part in ("", ".", "..") or "\0" in part for part in name.split("/")):
        raise StagingError(f"lists a file by the name {wording.printable(name)!r}, which leads out of it", Code.INPUT_ERROR)
