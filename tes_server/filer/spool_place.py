"""From a url of the settings to the shelf there, of the spool or the archive: a directory that machines share, or a prefix of an object store."""

from __future__ import annotations

import pathlib
from collections.abc import Callable

from tes_server.filer.control import Control
from tes_server.filer.manifest import Access
from tes_server.filer.spool import Shelf, Spool
from tes_server.plan import paths


def never() -> bool:
    """The calls of a server that lives on: each ends by itself."""
    return False


def opened(url: str, access: Access, stopped: Callable[[], bool] = never) -> Spool:
    """The spool at a url: `file:///shared/spool`, or one of an object store that `access` may write to. Calls raise `errors.Canceled` once `stopped`."""
    return Spool(shelf(url, access, stopped=stopped))


def shelf(url: str, access: Access, *, called: str = "spool", setting: str = "spool.url", private: bool = False, stopped: Callable[[], bool] = never) -> Shelf:
    """What `url` leads to. Raises SettingsError where `access` does not let it be written to. The rest: see `SpoolObjects` and `SpoolDirectory`."""
    if url.startswith("file:"):
        from tes_server.filer.spool_directory import SpoolDirectory

        return SpoolDirectory(pathlib.Path(paths.file_path(url)), called=called, private=private)
    from tes_server.filer.spool_objects import SpoolObjects

    return SpoolObjects(url, access, Control(stopped), called=called, setting=setting)
