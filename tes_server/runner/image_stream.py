"""A layer's tar archive as a file that is read once, front to back: uncompressed as it comes, counted and hashed.

Compression is told from the first bytes (gzip, zstd, none), as Docker does: media types lie. Memory stays bounded whatever
the bytes say. This module must never write anything.
"""

from __future__ import annotations

import collections
import gzip
import hashlib
import threading
import zlib
from collections.abc import Iterator
from typing import Any, Self

import zstandard

from tes_server import errors
from tes_server.runner import image_manifest
from tes_server.runner.image_blobs import PIECE, Bytes
from tes_server.telemetry import Code

_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"
_WINDOW = 128 * 1024 * 1024
"""Bytes of a zstd window: what its own command line takes without being asked for more."""
AHEAD = 4
"""Pieces of up to 1 MiB that wait to be written."""
HEADERS = 8 * 1024 * 1024
"""Bytes of the headers of one entry: long names and extended headers, which `tarfile` keeps in memory."""


class TarStream:
    """For `tarfile`, which wants read, seek (forward) and tell; then `finish`. `largest`: bytes once uncompressed.

    A context manager: leaving it lets go of the blob.
    """

    def __init__(self, blob: Bytes, largest: int) -> None:
        self._ahead = _Ahead(uncompressed(blob))
        self._rest = memoryview(b"")
        self._position = 0
        self._largest = largest
        self._allowed = HEADERS
        self.last = b""
        """the last block that was read: all zeros where an archive ends as it should"""

    def allow(self, size: int) -> None:
        """So many bytes may be read from here on, before the next call of this."""
        self._allowed = size

    def read(self, size: int) -> bytes:
        """Exactly `size` bytes, fewer only at the end."""
        self._allowed -= size
        if self._allowed < 0 or size < 0:
            raise image_manifest.unusable("a layer has an entry with headers beyond measure")
        data = b"".join(self.take(size))
        self.last = data
        return data

    def take(self, size: int) -> Iterator[memoryview]:
        """The next `size` bytes in pieces; fewer only at the end."""
        while size > 0:
            if not self._rest:
                self._rest = self._next()
                if not self._rest:
                    return
            piece, self._rest = self._rest[:size], self._rest[size:]
            size -= len(piece)
            self._position += len(piece)
            yield piece

    def seek(self, position: int) -> None:
        """Skip to `position`."""
        if position < self._position:
            raise image_manifest.unusable("a layer's archive leads backwards")
        for _ in self.take(position - self._position):
            pass

    def tell(self) -> int:
        """Bytes read or skipped so far."""
        return self._position

    def finish(self) -> str:
        """Read on to the end, and the digest of all of it."""
        for _ in self.take(self._largest + 1):
            pass
        return f"sha256:{self._ahead.hash.hexdigest()}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._ahead.close()

    def _next(self) -> memoryview:
        data = self._ahead.next()
        if self._position + len(data) > self._largest:
            raise TooLarge
        return memoryview(data)


class _Ahead:
    """Has pieces made by another thread, a few ahead of their reader: files are written while the next are uncompressed."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self.hash = hashlib.sha256()
        """of the pieces made so far: of all once `next` gave the end"""
        self._made: collections.deque[bytes | BaseException] = collections.deque()
        self._changed = threading.Condition()
        self._closed = False
        # A daemon: it may wait for a registry, and must not keep a server from ending.
        threading.Thread(target=self._run, args=(pieces,), name="tes-layer", daemon=True).start()

    def next(self) -> bytes:
        """The next piece, b"" after the last one. Raises what making it raised."""
        with self._changed:
            self._changed.wait_for(lambda: bool(self._made))
            piece = self._made[0]
            if isinstance(piece, BaseException):
                raise piece
            if piece:
                self._made.popleft()
                self._changed.notify_all()
        return piece

    def close(self) -> None:
        """No more pieces are wanted."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _run(self, pieces: Iterator[bytes]) -> None:
        try:
            for piece in pieces:
                self.hash.update(piece)
                if not self._give(piece):
                    return
        except BaseException as cause:  # noqa: BLE001 - raised again by next
            self._give(cause)
        else:
            self._give(b"")

    def _give(self, piece: bytes | BaseException) -> bool:
        """False if nobody wants it."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or len(self._made) < AHEAD)
            self._made.append(piece)
            self._changed.notify_all()
            return not self._closed


class TooLarge(errors.EngineError):
    """More than an image may have here."""

    def __init__(self) -> None:
        super().__init__("it is larger than images may be here (sandbox.images_gb)", Code.IMAGE_ERROR)


def is_compressed(head: bytes) -> bool:
    """Judged by the first four bytes."""
    return head.startswith((_GZIP, _ZSTD))


def uncompressed(blob: Bytes) -> Iterator[bytes]:
    """The bytes of a blob, whether or not it is compressed. EngineError IMAGE_ERROR if that is damaged."""
    head = b""
    while len(head) < len(_ZSTD) and (more := blob.read(PIECE)):
        head += more
    file: Any = _Joined(head, blob)
    if head.startswith(_GZIP):
        file = gzip.GzipFile(fileobj=file)
    elif head.startswith(_ZSTD):
        file = zstandard.ZstdDecompressor(max_window_size=_WINDOW).stream_reader(file, read_size=PIECE, read_across_frames=True)
    try:
        while data := file.read(PIECE * 4):
            yield data
    except (zlib.error, gzip.BadGzipFile, EOFError, zstandard.ZstdError) as cause:
        raise image_manifest.unusable(f"its compression is damaged: {cause}") from cause


class _Joined:
    """What was read of a blob, and the rest of it."""

    def __init__(self, head: bytes, blob: Bytes) -> None:
        self._head = head
        self._blob = blob

    def read(self, size: int) -> bytes:
        data, self._head = self._head[:size], self._head[size:]
        return data or self._blob.read(size)
