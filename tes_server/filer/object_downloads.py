"""Objects into local files: in ranges, several at once, each resumed where it broke off.

All ranges are of one version: they bear the ETag that was seen first, so that an object which changes under way is told and
never mixed. Memory is bounded for the whole process (`budget.MEMORY`). This module must never name, make or remove a file.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, NamedTuple

from obstore import exceptions

from tes_server import errors
from tes_server.filer import calls, copying
from tes_server.filer.budget import MEMORY
from tes_server.filer.control import Control
from tes_server.filer.crew import SMALL, Crew
from tes_server.filer.manifest import Access, MiB
from tes_server.filer.patience import Passing, Patience
from tes_server.telemetry import Code

if TYPE_CHECKING:
    from obstore import Bytes, GetOptions, GetResult

    from tes_server.filer.stores import Store

CHUNK = MiB // 4
"""Bytes that come from the SDK at once: the processor's caches still hold them when they are written, which halves the cost."""
HELD = 4 * CHUNK
"""Bytes that one range holds: a chunk, its copy, and what the connection reads ahead."""
SHORTEST = 8 * MiB
"""No range is shorter: each is a request."""


class Source(NamedTuple):
    """An object to be read. `telling`: around calls of obstore, see object_errors.told."""

    store: Store
    path: str
    size: int
    tag: str | None
    telling: Callable[[], AbstractContextManager[None]]


def download(source: Source, fd: int, access: Access, control: Control) -> int:
    """Write the object to the empty file `fd`; returns its size. Raises StagingError, OSError or Canceled."""
    if not source.size:
        return 0
    _check_room(fd, source.size)
    if source.size <= SMALL:
        with MEMORY.taken(source.size, control):
            copying.write(fd, memoryview(calls.run(_whole(source), control)), 0)
        control.moved(source.size)
        return source.size
    length = min(access.part_bytes, max(SHORTEST, -(-source.size // access.parts)))
    if length >= source.size:
        _fetch(source, fd, 0, source.size, access, control)
        return source.size
    below = control.below()
    with Crew(below, access.parts, "tes-range") as crew:
        for start in range(0, source.size, length):
            crew.submit(functools.partial(_fetch, source, fd, start, min(start + length, source.size), access, below))
    return source.size


def _check_room(fd: int, size: int) -> None:
    """Not after hours: the disk is too small from the beginning."""
    if size < SHORTEST:
        return
    disk = os.fstatvfs(fd)
    if (free := disk.f_bavail * disk.f_frsize) < size:
        raise errors.StagingError(f"has {size} bytes, and the disk has {free} free", Code.DISK_FULL)


class _Range:
    """Bytes of an object from `position` up to `end`, on their way into `fd`."""

    def __init__(self, source: Source, fd: int, position: int, end: int) -> None:
        self.position = position
        self.end = end
        self._source = source
        self._fd = fd

    async def go_on(self, control: Control) -> None:
        """From where it is. obstore repeats requests by itself; a body that it gives up raises Passing."""
        options: GetOptions = {"range": (self.position, self.end)}
        if self._source.tag is not None:
            options["if_match"] = self._source.tag
        found = await _got(self._source, options)
        if found.range != (self.position, self.end):
            raise _changed()
        try:
            async for data in found.stream(CHUNK):
                control.check()
                # Blocks this thread, which has nothing else to do.
                self.position += copying.write(self._fd, data, self.position)
                control.moved(len(data))
        except exceptions.BaseError as cause:
            raise Passing("the connection failed or broke off") from cause
        if self.position < self.end:
            raise Passing("the transfer broke off")


def _fetch(source: Source, fd: int, start: int, end: int, access: Access, control: Control) -> None:
    part = _Range(source, fd, start, end)
    patience = Patience(access, control, Code.INPUT_ERROR, start)
    while part.position < end:
        try:
            with MEMORY.taken(HELD, control):
                calls.run(part.go_on(control), control)
        except Passing as met:
            patience.failed(met, part.position)


async def _whole(source: Source) -> Bytes:
    """All of a small object in one request: an answer is of one version, whatever was listed before."""
    found = await _got(source, {})
    with source.telling():
        data = await found.bytes_async()
    if len(data) != source.size:
        raise _changed()
    return data


async def _got(source: Source, options: GetOptions) -> GetResult:
    with source.telling():
        found = await source.store.get_async(source.path, options=options)
    if found.meta["size"] != source.size:
        raise _changed()
    return found


def _changed() -> errors.StagingError:
    return errors.StagingError("was changed while it was being read", Code.INPUT_ERROR, transient=True)
