"""From `spool.url` to a spool: a directory that machines share, or a prefix of an object store."""

from __future__ import annotations

import pathlib

from tes_server.filer.control import Control
from tes_server.filer.manifest import Access
from tes_server.filer.spool import Shelf, Spool
from tes_server.plan import paths


def opened(url: str, access: Access) -> Spool:
    """The spool at a url: `file:///shared/spool`, or one of an object store that `access` may write to."""
    return Spool(_shelf(url, access))


def _shelf(url: str, access: Access) -> Shelf:
    if url.startswith("file:"):
        from tes_server.filer.spool_directory import SpoolDirectory

        return SpoolDirectory(pathlib.Path(paths.file_path(url)))
    from tes_server.filer.spool_objects import SpoolObjects

    return SpoolObjects(url, access, Control(lambda: False))
