"""Outputs from a task's volume to their urls.

The task may have left anything in its volume: it is read through `rooted` and `tree` only. This module must never
let one output's failure keep another from being saved.
"""

from __future__ import annotations

import errno
import functools
import posixpath
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from tes_server.errors import StagingError
from tes_server.filer import finding, schemes, tree, wording
from tes_server.filer.allowance import Allowance, Exceeded
from tes_server.filer.control import Control
from tes_server.filer.crew import Batches, Crew
from tes_server.filer.manifest import Access, Collected
from tes_server.filer.progress import Progress
from tes_server.filer.rooted import Realm
from tes_server.filer.schemes import Directory, Entry, Failed, Left, Link, Schemes, Target, Writer
from tes_server.filer.tree import TreeFile
from tes_server.filer.wording import OUTPUT, Notices
from tes_server.model.task import OutputFileLog
from tes_server.plan.paths import below
from tes_server.plan.steps import Collect
from tes_server.telemetry import Code


class _Taken(NamedTuple):
    """One file or directory of the volume on its way: `name` is where it goes below `target`, `shown` the url of that."""

    order: int
    field: str
    path: str
    writer: Writer
    target: Target
    name: str
    shown: str
    scheme: str


class View(NamedTuple):
    """What executors see at the container path `shown` and below ("" = everywhere): a realm of its own."""

    realm: Realm
    shown: str = ""

    def inner(self, path: str) -> str:
        """A container path as a path of the realm."""
        return path.removeprefix(self.shown) or "/"

    def find(self, pattern: str, control: Control, count: Callable[[int], None]) -> list[str]:
        """Container paths that match, see `finding.find`."""
        return [self.shown + path for path in finding.find(self.realm, self.inner(pattern), control, count)]


class Outward:
    """One stage-out. Errors are kept, not raised: the other outputs still go. `views`: the first that shows a path counts."""

    def __init__(self, views: Sequence[View], access: Access, control: Control, attempt: str, progress: Progress) -> None:
        self._views = views
        self._access = access
        self._progress = progress
        self._control = control
        self._writers = Schemes(schemes.WRITERS, access, control, attempt)
        self._notices = Notices()
        self._allowance = Allowance(access, OUTPUT)
        # Only appended to, by all threads; `collected` restores the order of the task's outputs.
        self._logs: list[tuple[int, OutputFileLog]] = []
        self._failures: list[tuple[int, StagingError]] = []

    def collect(self, order: int, collect: Collect, crew: Crew) -> None:
        """Start to take one output: the `order`th of the task."""
        try:
            if not collect.prefix:
                self._take(order, collect, collect.path, crew)
                return
            found = self._view(collect.prefix).find(collect.path, self._control, self._allowance.count)
        except (OSError, StagingError) as cause:
            self._fail(order, collect.field, collect.path, cause, collect.shown)
            return
        if not found:
            self._missing(collect, collect.path)
        for path in found:
            try:
                self._take(order, collect, path, crew)
            except (OSError, StagingError) as cause:
                self._fail(order, collect.field, path, cause, collect.shown)
                if isinstance(cause, Exceeded):
                    return

    def finish(self) -> None:
        """Make durable what was put; after the last job has ended."""
        for writer in self._writers.used():
            try:
                writer.finish()
            except (OSError, StagingError) as cause:
                # Before all others: without the sync nothing counts as saved.
                self._fail(-1, "/outputs", "the sync at the end", cause)

    def close(self) -> None:
        """Give back connections."""
        for writer in self._writers.used():
            writer.close()

    def collected(self) -> Collected:
        """What was done."""
        logs = sorted(self._logs, key=lambda item: (item[0], item[1].path))
        first = min(self._failures, key=lambda item: item[0], default=None)
        return Collected(outputs=tuple(log for _, log in logs), notices=(*self._progress.lines(), *self._notices.lines()), error=first[1] if first else None)

    def _take(self, order: int, collect: Collect, path: str, crew: Crew) -> None:
        view = self._view(path)
        try:
            place = view.realm.find(view.inner(path))
        except OSError as cause:
            if cause.errno not in _NOTHING_THERE:
                raise
            self._missing(collect, path)
            return
        taken = self._destination(order, collect, path, is_file=bool(place.rest))
        batches = Batches[TreeFile](crew, functools.partial(self._put, taken))
        for entry in tree.walk(view.realm, view.inner(path), keep_links=taken.writer.keeps_links, count=self._allowance.count):
            self._control.check()
            self._allowance.entry()
            if isinstance(entry, TreeFile):
                self._allowance.size(entry.size)
            try:
                self._entry(taken, entry, batches)
            except (OSError, StagingError) as cause:
                self._fail(order, taken.field, wording.join(path, entry.name), cause, wording.below(taken.shown, entry.name))
        batches.flush()

    def _view(self, path: str) -> View:
        return next(view for view in self._views if below(path, view.shown))

    def _destination(self, order: int, collect: Collect, path: str, *, is_file: bool) -> _Taken:
        try:
            writer = self._writers.of(collect.url)
        except KeyError as cause:
            raise StagingError("goes to a url of no scheme that this server can write to", Code.OUTPUT_ERROR) from cause
        if collect.prefix:
            # TES 1.1, tesOutput.path_prefix: the url is a directory, each match's path less the prefix goes below it.
            pattern = collect.path.removeprefix(collect.prefix).lstrip("/")
            url, shown = _without(collect.url, pattern), _without(collect.shown, pattern)
            name = path.removeprefix(collect.prefix).lstrip("/")
            shown = wording.below(shown, name)
        elif is_file:
            (url, name), shown = writer.split(collect.url), collect.shown
            if not name:  # a file for a url that ends with a slash keeps its name
                name = posixpath.basename(path)
                shown = wording.below(shown, name)
        else:
            url, name, shown = collect.url, "", collect.shown
        return _Taken(order, collect.field, path, writer, writer.target(url), name, shown, schemes.scheme_of(collect.url, self._access))

    def _entry(self, taken: _Taken, entry: TreeFile | Entry, batches: Batches[TreeFile]) -> None:
        name = posixpath.join(taken.name, entry.name) if entry.name else taken.name
        if isinstance(entry, Directory):
            taken.target.directory(name)
        elif isinstance(entry, Link):
            taken.target.link(Link(name, entry.target))
        elif isinstance(entry, Left):
            self._notices.add(Code.OUTPUT_DENIED, f"{taken.field}: {wording.join(taken.path, entry.name)} {wording.printable(entry.why)}; it was left out")
        elif isinstance(entry, Failed):
            raise entry.cause
        else:
            batches.add(entry)

    def _put(self, taken: _Taken, files: Sequence[TreeFile]) -> None:
        begun, sizes = time.monotonic(), list[int]()
        for file in files:
            path = wording.join(taken.path, file.name)
            try:
                size = taken.target.put(posixpath.join(taken.name, file.name) if file.name else taken.name, file)
            except (OSError, StagingError) as cause:
                self._fail(taken.order, taken.field, path, cause, wording.below(taken.shown, file.name))
            else:
                sizes.append(size)
                self._logs.append((taken.order, OutputFileLog(url=wording.below(taken.shown, file.name), path=path, size_bytes=str(size))))
        self._progress.done(taken.scheme, len(sizes), sum(sizes), time.monotonic() - begun)

    def _missing(self, collect: Collect, path: str) -> None:
        self._notices.add(Code.OUTPUT_MISSING, f"{collect.field}: there is no {wording.printable(path)}", advice=True)

    def _fail(self, order: int, field: str, path: str, cause: OSError | StagingError, url: str = "") -> None:
        """`url`: where it was to go, as the task wrote it."""
        where = wording.printable(path) + (f" to {wording.redacted(url)}" if url else "")
        self._failures.append((order, wording.failure(cause, OUTPUT, field, where)))


_NOTHING_THERE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})
"""A path, or a link, that leads nowhere: the output is missing."""


def _without(url: str, pattern: str) -> str:
    """The url of a directory whose last part is the pattern itself, without it (clients.md row 22); any other as it is."""
    for text in (pattern, wording.quoted(pattern)):
        if url.endswith("/" + text):
            return url[: -len(text)]
    return url
