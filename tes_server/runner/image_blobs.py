"""A blob on its way from a registry: one thread fills a file that has no name, another reads it as far as it is there.

So layers come in parallel, and the lowest is unpacked while it still comes. A transfer that breaks off goes on where it
was. Digest and size are checked as the bytes pass. This module must never know what is in a blob.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import hashlib
import os
import pathlib
import re
import tempfile
import threading
from collections.abc import Iterator, Sequence
from typing import BinaryIO, Protocol

import urllib3

from tes_server import errors
from tes_server.filer.control import Control
from tes_server.model.image_names import Name
from tes_server.runner import image_connections, image_manifest
from tes_server.runner.image_connections import Passing
from tes_server.runner.image_manifest import Blob, Config, Manifest
from tes_server.runner.image_registry import Registry

PIECE = 256 * 1024
"""Bytes read at once."""

PARALLEL = 4
"""Layers fetched at once: one connection rarely fills a line, and registries do not like many."""

_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(?:\d+|\*)")


class Bytes(Protocol):
    """The bytes of a blob in order, from wherever they are."""

    def read(self, size: int, /) -> bytes:
        """Up to `size` bytes; none only at the end. EngineError if the blob cannot be had, or is not what it should be."""


class Source(Protocol):
    """Where an image comes from."""

    digest: str
    compressed: int
    """bytes that its layers take of the disk while they are unpacked"""

    def config(self, work: pathlib.Path, /) -> Config:
        """Its config. `work` is a directory for files without a name."""

    def layers(self, work: pathlib.Path, /) -> contextlib.AbstractContextManager[Sequence[Bytes]]:
        """Its layers, the lowest first, which are to be read in this order, while the context lasts."""


class Download:
    """One blob. `run` fetches it, in a thread; `read` gives what came, in another. `directory`: where the file is made."""

    def __init__(self, registry: Registry, name: Name, blob: Blob, directory: pathlib.Path) -> None:
        self._registry = registry
        self._name = name
        self._blob = blob
        self._directory = directory
        self._file: BinaryIO | None = None  # made when bytes come: an image may have more layers than we may have files open
        self._hash = hashlib.sha256()
        self._there = 0
        self._taken = 0
        self._complete = False
        self._failure: BaseException | None = None
        self._changed = threading.Condition()

    def run(self, control: Control) -> None:
        """Fetch the blob. Never raises: `read` tells the failure to whom it concerns."""
        try:
            self._fetch(control)
        except BaseException as cause:  # noqa: BLE001 - told by read
            self._end(cause)
        else:
            self._end(None)

    def read(self, size: int, /) -> bytes:
        """See `Bytes`. Waits for bytes that are still to come; the last are given only if the whole was right."""
        with self._changed:
            self._changed.wait_for(lambda: self._there > self._taken or self._complete or self._failure is not None)
            if self._failure is not None:
                raise self._failure
            there = self._there
        if self._file is None:
            return b""
        data = os.pread(self._file.fileno(), min(size, there - self._taken), self._taken)
        self._taken += len(data)
        return data

    def close(self) -> None:
        """Give the disk back. After `run` has ended."""
        if self._file is not None:
            self._file.close()

    def _end(self, failure: BaseException | None) -> None:
        with self._changed:
            self._failure = failure
            self._complete = failure is None
            self._changed.notify_all()

    def _fetch(self, control: Control) -> None:
        failures, mark = 0, 0
        while True:
            try:
                with self._registry.blob(self._name, self._blob.digest, self._there) as response:
                    control.on_end(functools.partial(_wake, response))
                    control.check()  # the end may have come before it could wake us
                    self._receive(response, control)
                break
            except (Passing, urllib3.exceptions.HTTPError) as cause:
                control.check()
                if self._there > mark:
                    failures, mark = 0, self._there
                failures += 1
                if failures >= self._registry.pace.tries:
                    raise _final(cause) from cause
                self._registry.wait(failures, cause.after if isinstance(cause, Passing) else 0.0, control.pause)
        if f"sha256:{self._hash.hexdigest()}" != self._blob.digest:
            raise Passing("the registry sent other bytes than its manifest promises: the digest of a blob is wrong")

    def _receive(self, response: urllib3.BaseHTTPResponse, control: Control) -> None:
        skip = self._begin(response)
        while data := response.read(PIECE, decode_content=False):
            control.check()
            if skip:
                skip, data = skip - min(skip, len(data)), data[skip:]
            if self._there + len(data) > self._blob.size:
                raise Passing("the registry sent more bytes than its manifest promises")
            self._keep(data)
        if self._there < self._blob.size:
            raise Passing("the transfer broke off")

    def _begin(self, response: urllib3.BaseHTTPResponse) -> int:
        """How many bytes of this answer we have already."""
        if response.status != 206:
            return self._there
        stated = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if stated is None or int(stated[1]) != self._there:
            raise Passing("the registry sent another part of a blob than was asked for")
        return 0

    def _keep(self, data: bytes) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile(dir=self._directory, buffering=0)  # noqa: SIM115 - until close
        view = memoryview(data)
        self._hash.update(view)
        while view:
            written = os.pwrite(self._file.fileno(), view, self._there)
            view = view[written:]
            with self._changed:
                self._there += written
                self._changed.notify_all()


class Remote:
    """An image in a registry (`Source`)."""

    def __init__(self, registry: Registry, name: Name, manifest: Manifest) -> None:
        self.digest = name.digest
        self.compressed = sum(layer.size for layer in manifest.layers)
        self._registry = registry
        self._name = name
        self._manifest = manifest

    def config(self, work: pathlib.Path) -> Config:
        """See `Source`."""
        blob = self._manifest.config
        if blob.size > image_manifest.LARGEST_CONFIG:
            raise image_manifest.unusable(f"its config is larger than {image_manifest.LARGEST_CONFIG} bytes")
        with contextlib.closing(Download(self._registry, self._name, blob, work)) as download:
            download.run(Control(lambda: False))
            text = b"".join(iter(lambda: download.read(PIECE), b""))
        return image_manifest.config(text, len(self._manifest.layers))

    @contextlib.contextmanager
    def layers(self, work: pathlib.Path) -> Iterator[Sequence[Bytes]]:
        """See `Source`. What is still on its way at the end is stopped."""
        control = Control(lambda: False)
        downloads = [Download(self._registry, self._name, layer, work) for layer in self._manifest.layers]
        with concurrent.futures.ThreadPoolExecutor(PARALLEL, thread_name_prefix="tes-pull") as pool:
            try:
                for download in downloads:
                    pool.submit(download.run, control)
                yield downloads
            finally:
                control.end()
                pool.shutdown(wait=True, cancel_futures=True)
                for download in downloads:
                    download.close()


def _wake(response: urllib3.BaseHTTPResponse) -> None:
    """Let a thread that waits for this answer see its end. An answer that was read to its end is nobody's any more."""
    with contextlib.suppress(OSError, ValueError, RuntimeError):
        response.shutdown()


def _final(cause: Exception) -> errors.EngineError:
    failure = cause if isinstance(cause, errors.EngineError) else image_connections.failed(cause, "the registry")
    return errors.EngineError(f"{failure.public}, several times in a row", failure.code, failure.transient)
