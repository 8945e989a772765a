"""Objects into local files: in ranges, several at once, each resumed where it broke off.

All ranges are of one version: they bear the ETag that was seen first, so that an object which changes under way is told and
never mixed. Memory is bounded for the whole process (`MEMORY`). This module must never name, make or remove a file.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, NamedTuple

from tes_server import errors
from tes_server.filer import calls, copying, object_errors
from tes_server.filer.budget import Budget
from tes_server.filer.control import Control
from tes_server.filer.crew import SMALL, Crew
from tes_server.filer.manifest import Access, MiB
from tes_server.telemetry import Code

if TYPE_CHECKING:
    from obstore import Bytes, BytesStream, GetOptions, GetResult

    from tes_server.filer.stores import Bucket

MEMORY = Budget(512 * MiB)
"""What all transfers of this process with object stores hold at a time, both ways."""
CHUNK = 2 * MiB
"""Bytes that come from the SDK at once; large enough that handing them over costs nothing."""
HELD = 4 * CHUNK
"""Bytes that one range holds: a chunk, its copy, and what the connection reads ahead."""
SHORTEST = 8 * MiB
"""No range is shorter: each is a request."""


class Source(NamedTuple):
    """An object to be read. `telling`: around calls of obstore, see object_errors.told."""

    store: Bucket
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


class _BrokeOff(Exception):
    """The body of an answer ended early, or its connection did. The cause is obstore's."""


def _fetch(source: Source, fd: int, position: int, end: int, access: Access, control: Control) -> None:
    """One range. obstore repeats requests by itself; a body that it gives up is gone on with here, from where it stopped."""
    failures = 0
    while position < end:
        before = position
        try:
            with MEMORY.taken(HELD, control):
                body = calls.run(_body(source, position, end), control)
                while data := calls.run(_next(body), control):
                    position += copying.write(fd, data, position)
            if position < end:
                raise _BrokeOff
        except _BrokeOff as cause:
            failures = failures + 1 if position == before else 0
            if failures >= access.tries:
                raise errors.StagingError("the connection broke off, several times", Code.INPUT_ERROR, transient=True) from cause
            control.pause(min(access.first_delay * 2**failures, access.longest_delay))


async def _body(source: Source, start: int, end: int) -> BytesStream:
    options: GetOptions = {"range": (start, end)}
    if source.tag is not None:
        options["if_match"] = source.tag
    found = await _got(source, options)
    if found.range != (start, end):
        raise _changed()
    return found.stream(CHUNK)


async def _next(body: BytesStream) -> bytes:
    try:
        async for data in body:
            return data
    except object_errors.FAILURES as cause:
        raise _BrokeOff from cause
    return b""


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
