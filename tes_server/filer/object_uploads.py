"""Local files into objects: small ones in one request, large ones in parts, several at once. Whole or not at all.

What fails or is stopped is aborted, so that no parts stay behind and cost money; only a process that is killed, or a store
that does not answer to the abort either, leaves some. Every request bears a checksum of its body where the cloud's signature
has one (S3). Memory is bounded for the whole process, the part size grows with the file. This module must never look at a path.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from tes_server import errors
from tes_server.filer import calls
from tes_server.filer.budget import MEMORY
from tes_server.filer.control import Control
from tes_server.filer.manifest import Access, MiB
from tes_server.filer.schemes import LocalFile
from tes_server.telemetry import Code

if TYPE_CHECKING:
    from tes_server.filer.stores import Store

SINGLE = 8 * MiB
"""Up to so many bytes go in one request."""
PART = 16 * MiB
"""Bytes of a part, while the file is not too long for it."""
MOST_PARTS = 9_000
"""S3 takes 10,000."""
HELD = 256 * MiB
"""Bytes of parts that one file holds at the most, one part apart: fewer go at once where they must be larger."""
PIECE = 4 * MiB
"""Bytes read at once."""
FAREWELL = 1.5
"""Seconds that a stopped upload has for its abort."""

Telling = Callable[[], AbstractContextManager[None]]
"""Around calls of obstore, see object_errors.told."""


def upload(store: Store, key: str, file: LocalFile, telling: Telling, access: Access, control: Control) -> int:
    """Put the file at `key`; returns its size. Raises StagingError, OSError or Canceled."""
    fd = file.open()
    try:
        reading = _Reading(fd, control)
        if reading.size <= SINGLE:
            with MEMORY.taken(reading.size, control):
                calls.run(_put(store, key, b"".join(reading), telling), control)
        else:
            _put_parts(store, key, reading, telling, access, control)
        return reading.size
    finally:
        os.close(fd)


class _Reading:
    """A file as the SDK reads it, piece by piece. Ends with an error if the file is not what it was, before the object is complete."""

    def __init__(self, fd: int, control: Control) -> None:
        self._fd = fd
        self._control = control
        self._status = os.fstat(fd)
        self.size = self._status.st_size
        self.failure: Exception | None = None

    def __iter__(self) -> Iterator[bytes]:
        try:
            position = 0
            while position < self.size:
                self._control.check()
                data = os.pread(self._fd, min(PIECE, self.size - position), position)
                if not data:
                    break
                position += len(data)
                self._control.moved(len(data))
                yield data
            self._control.check()
            status = os.fstat(self._fd)
            if position < self.size or (status.st_size, status.st_mtime_ns) != (self.size, self._status.st_mtime_ns):
                raise errors.StagingError("was changed while it was being read", Code.OUTPUT_ERROR, transient=True)
        except Exception as cause:
            # The SDK would hand it on in its own words.
            self.failure = cause
            raise


def _put_parts(store: Store, key: str, reading: _Reading, telling: Telling, access: Access, control: Control) -> None:
    part = max(PART, -(-reading.size // MOST_PARTS // MiB) * MiB)
    parallel = max(1, min(access.parts, HELD // part - 1))
    with MEMORY.taken(part * (parallel + 1), control):
        calls.run(_parts(store, key, reading, part, parallel, telling), control, FAREWELL)
    if (size := calls.run(_size(store, key, telling), control)) != reading.size:
        raise errors.StagingError(f"has {reading.size} bytes, and the store says {size} of what arrived", Code.OUTPUT_ERROR, transient=True)


async def _put(store: Store, key: str, data: bytes, telling: Telling) -> None:
    with telling():
        await store.put_async(key, data, use_multipart=False)


async def _parts(store: Store, key: str, reading: _Reading, part: int, parallel: int, telling: Telling) -> None:
    try:
        with telling():
            await store.put_async(key, reading, use_multipart=True, chunk_size=part, max_concurrency=parallel)
    except errors.StagingError:
        if reading.failure is not None:
            raise reading.failure from None
        raise


async def _size(store: Store, key: str, telling: Telling) -> int:
    with telling():
        return (await store.head_async(key))["size"]
