"""Whether the object stores of the settings can be used, looked at before any task is: for whoever runs the server.

One list request tells whether address, credentials and bucket are right. This module must never write to a store.
"""

from __future__ import annotations

import msgspec

from tes_server.filer import stores
from tes_server.filer.control import Control
from tes_server.filer.manifest import Access, Storage
from tes_server.filer.objects import Objects
from tes_server.plan import objects

_SOMEBODY = "nobody"
"""Stands for an account or bucket that the settings leave open: nothing is asked of it."""


def credentials(store: Storage, access: Access) -> None:
    """Look up the credentials that the settings name. Raises StagingError STORAGE_CREDENTIALS if they are not there. Asks no store."""
    place = objects.rule_of(store.url, write=store.write).place
    stores.opened(store, msgspec.structs.replace(place, account=place.account or _SOMEBODY, bucket=place.bucket or _SOMEBODY), access)


def ask(store: Storage, access: Access) -> str:
    """What can be said of a store that can be used. Raises StagingError with what is wrong, after some seconds where it does not answer."""
    place = objects.rule_of(store.url, write=store.write).place
    if not place.bucket:
        credentials(store, access)
        return "not asked: no bucket is named"
    hasty = msgspec.structs.replace(access, tries=2, connect_timeout=5, read_timeout=10)
    Objects(hasty, Control(lambda: False)).ask(place.url())
    return "answers, may be written to" if store.write else "answers"
