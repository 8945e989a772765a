"""The schemes of object stores: `s3`, `gs`, `az`, `abfss` and blob urls, both ways, over obstore.

A key that is an object is a file; a key with objects below it is a directory, and so is an object whose key ends with a
slash ("directory marker"). Keys come from strangers: what cannot be a path is refused by name, never skipped. Only what the
settings allow is asked for. This module must never show a signature, nor an error in obstore's own words.
"""

from __future__ import annotations

import asyncio
import contextlib
import posixpath
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple, NoReturn

import msgspec

from tes_server import errors
from tes_server.filer import calls, object_errors, stores, wording
from tes_server.filer.control import Control
from tes_server.filer.manifest import Access, Storage
from tes_server.filer.object_downloads import Source, download
from tes_server.filer.object_uploads import upload
from tes_server.filer.schemes import Directory, Entry, Left, Link, LocalFile
from tes_server.filer.wording import INPUT, OUTPUT, Side
from tes_server.plan import objects as urls
from tes_server.plan.objects import Place

if TYPE_CHECKING:
    from obstore import ListStream, ObjectMeta

PAGE = 1000
"""Objects of one page of a list: what the clouds' own pages hold."""
_AT_ONCE = 32
"""Empty objects looked up at the same time: each may be a directory marker."""


class Bucket(NamedTuple):
    """An open bucket, the place in it that is meant, and how its errors are told."""

    store: stores.Store
    place: Place
    settings: Storage
    side: Side

    def telling(self) -> contextlib.AbstractContextManager[None]:
        """Around calls of obstore: its errors become ours."""
        return object_errors.told(self.side, stores.credentials(self.settings, self.place))


class ObjectFile:
    """One object (schemes.File)."""

    executable = False

    def __init__(self, objects: Objects, bucket: Bucket, name: str, meta: ObjectMeta) -> None:
        self.name = name
        self.size = meta["size"]
        self._objects = objects
        self._bucket = bucket
        self._meta = meta

    def fill(self, fd: int, control: Control) -> int:
        """Download into `fd`; returns the size."""
        source = Source(self._bucket.store, self._meta["path"], self.size, _quoted(self._meta["e_tag"]), self._bucket.telling)
        return download(source, fd, self._objects.access, control)


class Objects:
    """All object stores of one stage step (schemes.Reader and schemes.Writer)."""

    keeps_links = False

    def __init__(self, access: Access, control: Control) -> None:
        self.access = access
        self.control = control

    def bucket(self, url: str, side: Side) -> Bucket:
        """The bucket of a url. Raises StagingError for a url that is malformed or not allowed."""
        try:
            place = urls.place_of(url)
        except urls.Malformed as cause:
            raise errors.StagingError(str(cause), side.error) from cause
        settings = self.access.store_of(url)
        if place is None or settings is None or (side is OUTPUT and not settings.write):
            verb = "read from" if side is INPUT else "write to"
            if settings is None and self.access.reach is not None:
                raise errors.StagingError(
                    f"may not be {'read' if side is INPUT else 'written'} by {self.access.reach.owner} (see the setting `grants`)", side.denied
                )
            raise errors.StagingError(f"is in no store that this server may {verb} (see the setting `storage`)", side.denied)
        if fault := urls.fault(place.key.rstrip("/")):
            raise errors.StagingError(fault, side.error)
        return Bucket(stores.opened(settings, place, self.access), place, settings, side)

    def ask(self, url: str) -> None:
        """One list request at a url. Raises StagingError if its address, credentials or bucket are not right, or it may not be listed."""
        bucket = self.bucket(url, INPUT)
        next(self._pages(bucket, bucket.place.key.rstrip("/")), None)

    def close(self) -> None:
        """See schemes.Reader; connections are the process's."""

    # -- reading ---------------------------------------------------------------------------------------------------

    def source(self, url: str, directory: bool = False) -> Iterator[ObjectFile | Entry]:
        """See schemes.Reader. With `directory`, or a slash at its end, what lies below the key is looked at first."""
        bucket = self.bucket(url, INPUT)
        key = bucket.place.key.rstrip("/")
        first = directory or bucket.place.key != key or not key
        meta = None if first else self._look(bucket, key)
        if meta is not None:
            yield ObjectFile(self, bucket, "", meta)
            return
        below = self._below(bucket, key)
        entry = next(below, None)
        if entry is not None:
            yield Directory("")
            yield entry
            yield from below
            return
        if first and key and (meta := self._look(bucket, key)) is not None:
            yield ObjectFile(self, bucket, "", meta)
            return
        self._missing(bucket, key)

    def _look(self, bucket: Bucket, key: str) -> ObjectMeta | None:
        """What is known of the object `key`; None if there is none, or it stands for a directory."""
        return calls.run(_look(bucket, key), self.control)

    def _missing(self, bucket: Bucket, key: str) -> NoReturn:
        """Raise what the store says of a key that is not there: a GET is told more than a HEAD."""
        calls.run(_ask(bucket, key), self.control)
        raise errors.StagingError("there is no such object", bucket.side.missing)

    def _below(self, bucket: Bucket, key: str) -> Iterator[ObjectFile | Entry]:
        """The entries below a key; at least Directory("") if a marker says that there is a directory."""
        prefix = f"{key}/" if key else ""
        files = _Files()
        for page in self._pages(bucket, key):
            empty = [meta["path"] for meta in page if not meta["size"] and meta["path"] != key]
            there = calls.run(_which(bucket, empty), self.control) if empty else set[str]()
            for meta in page:
                name = meta["path"].removeprefix(prefix)
                if meta["path"] == key or (not meta["size"] and meta["path"] not in there):
                    yield Directory("" if meta["path"] == key else name)
                elif above := files.above(name):
                    yield Left(name, f"lies below {above!r}, which is an object itself")
                else:
                    yield ObjectFile(self, bucket, name, meta)

    def _pages(self, bucket: Bucket, key: str) -> Iterator[Sequence[ObjectMeta]]:
        """Pages of the objects below a key."""
        listed = bucket.store.list(key or None, chunk_size=PAGE)
        while page := calls.run(_page(listed, bucket), self.control):
            yield page

    # -- writing ---------------------------------------------------------------------------------------------------

    def split(self, url: str) -> tuple[str, str]:
        """See schemes.Writer."""
        scheme, _, _ = url.partition(":")
        if scheme.lower() != "https":
            head, slash, name = url.rpartition("/")
            return head + slash, name
        path, mark, query = url.partition("?")
        head, slash, name = path.rpartition("/")
        return head + slash + mark + query, wording.unquoted(name)

    def target(self, url: str) -> ObjectTarget:
        """See schemes.Writer. Nothing is made until a file is put: stores have no directories."""
        return ObjectTarget(self, self.bucket(url, OUTPUT))

    def finish(self) -> None:
        """See schemes.Writer: a store that acknowledged an object has it on disk."""


class ObjectTarget:
    """A key below which objects are put (schemes.Target)."""

    def __init__(self, objects: Objects, bucket: Bucket) -> None:
        self._objects = objects
        self._bucket = bucket

    def directory(self, name: str) -> None:
        """Do nothing: a directory is there as soon as it holds something, and empty ones are not kept."""

    def link(self, link: Link) -> None:
        """Refuse: links were to be given as what they lead to."""
        raise errors.StagingError(f"{link.name} is a symbolic link, which a store cannot hold", OUTPUT.error)

    def put(self, name: str, file: LocalFile) -> int:
        """Put a file there, whole or not at all; returns its size in bytes."""
        key = posixpath.join(self._bucket.place.key.rstrip("/"), name)
        if fault := urls.fault(key):
            raise errors.StagingError(f"cannot be an object: it {fault}", OUTPUT.error)
        reach = self._objects.access.reach
        if reach is not None and not reach.covers_place(msgspec.structs.replace(self._bucket.place, key=key)):
            raise errors.StagingError("is not granted to the owner of this task (see the setting `grants`)", OUTPUT.denied)
        return upload(self._bucket.store, key, file, self._bucket.telling, self._objects.access, self._objects.control)


class _Files:
    """Whether a name lies below the name of a file: in a store both can be, on a disk not.

    Lists are in the order of their keys, in which everything that begins with one key comes together.
    """

    def __init__(self) -> None:
        self._open: list[str] = []

    def above(self, name: str) -> str:
        """The file that `name` lies below, or ""; else remember `name` as one."""
        while self._open and not name.startswith(self._open[-1]):
            self._open.pop()
        found = next((above for above in self._open if name.startswith(above + "/")), "")
        if not found:
            self._open.append(name)
        return found


# -- calls ---------------------------------------------------------------------------------------------------------


async def _look(bucket: Bucket, key: str) -> ObjectMeta | None:
    with bucket.telling():
        try:
            found = await bucket.store.get_async(key, options={"head": True})
        except FileNotFoundError:
            return None
        except object_errors.FAILURES:
            await _ask(bucket, key)  # the answer to a HEAD has no words
            raise
    # Azure: how Hadoop and ADLS mark a directory.
    return None if not found.meta["size"] and found.attributes.get("hdi_isfolder") == "true" else found.meta


async def _ask(bucket: Bucket, key: str) -> None:
    """Raise what a GET of `key` is answered, if it is an error."""
    with bucket.telling():
        await bucket.store.get_async(key or "-")


async def _which(bucket: Bucket, keys: Sequence[str]) -> set[str]:
    """Those of `keys` that are objects: others were listed with a slash at their end, which obstore does not show."""
    turns = asyncio.Semaphore(_AT_ONCE)

    async def there(key: str) -> bool:
        async with turns:
            return await _look(bucket, key) is not None

    found = await asyncio.gather(*map(there, keys))
    return {key for key, is_object in zip(keys, found, strict=True) if is_object}


async def _page(listed: ListStream[Sequence[ObjectMeta]], bucket: Bucket) -> Sequence[ObjectMeta]:
    with bucket.telling():
        async for page in listed:
            return page
    return ()


def _quoted(tag: str | None) -> str | None:
    """An ETag as If-Match wants it: Azure lists them without quotes."""
    return tag if tag is None or tag.startswith(('"', "W/")) else f'"{tag}"'
