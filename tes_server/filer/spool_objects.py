"""A spool's objects as objects of a store (S3, Azure Blob, Google Cloud Storage), below a prefix.

Puts are whole or not at all there, and `create` is a put on the condition that nothing is there yet (If-None-Match). A put that
obstore repeats after a lost answer may meet itself. This module must never look first and write then.
"""

from __future__ import annotations

import contextlib
import posixpath
from collections.abc import Collection, Coroutine, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from tes_server import errors
from tes_server.filer import calls, objects
from tes_server.filer.control import Control
from tes_server.filer.manifest import Access
from tes_server.filer.wording import OUTPUT

if TYPE_CHECKING:
    from obstore import ObjectMeta

PAGE = 1000
"""Objects of one page of a list: what the clouds' own pages hold."""

Answer = TypeVar("Answer")


class SpoolObjects:
    """A prefix of a store as spool.Shelf."""

    def __init__(self, url: str, access: Access, control: Control, *, called: str = "spool", setting: str = "spool.url") -> None:
        """`access` must name the store, with `write`. Raises SettingsError if it does not. `called`, `setting`: how errors name it."""
        self._called = called
        try:
            self._bucket = objects.Objects(access, control).bucket(url, OUTPUT)
        except errors.StagingError as cause:
            raise errors.SettingsError(cause.public, setting) from cause
        self._control = control
        self._prefix = self._bucket.place.key.rstrip("/")

    def read(self, name: str, limit: int) -> bytes | None:
        """See spool.Shelf."""
        return self._answer(self._read(name, limit))

    async def _read(self, name: str, limit: int) -> bytes | None:
        try:
            found = await self._bucket.store.get_async(self._key(name))
        except FileNotFoundError:
            return None
        return bytes(await found.bytes_async()) if found.meta["size"] <= limit else None

    def write(self, name: str, data: bytes) -> None:
        """See spool.Shelf."""
        self._answer(self._bucket.store.put_async(self._key(name), data, use_multipart=False))

    def create(self, name: str, data: bytes) -> bool:
        """See spool.Shelf."""
        return self._answer(self._create(name, data))

    async def _create(self, name: str, data: bytes) -> bool:
        from obstore import exceptions

        try:
            await self._bucket.store.put_async(self._key(name), data, mode="create", use_multipart=False)
        except exceptions.AlreadyExistsError:
            return False
        return True

    def names(self, prefix: str) -> Iterator[str]:
        """See spool.Shelf."""
        listed = self._bucket.store.list(self._key(prefix) or None, chunk_size=PAGE)

        async def page() -> Sequence[ObjectMeta]:
            async for found in listed:
                return found
            return ()

        above = f"{self._prefix}/" if self._prefix else ""
        while found := self._answer(page()):
            yield from (meta["path"].removeprefix(above) for meta in found)

    def remove(self, names: Collection[str]) -> None:
        """See spool.Shelf."""
        for name in names:
            self._answer(self._remove(name))

    async def _remove(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            await self._bucket.store.delete_async(self._key(name))

    def _key(self, name: str) -> str:
        return posixpath.join(self._prefix, name)

    def _answer(self, call: Coroutine[Any, Any, Answer]) -> Answer:
        async def told() -> Answer:
            with self._bucket.telling():
                return await call

        try:
            return calls.run(told(), self._control)
        except errors.StagingError as cause:
            raise errors.Unavailable(f"the {self._called} cannot be used: {cause.public}") from cause
