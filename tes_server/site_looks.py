"""What `serve` warns of and `doctor` tells alike: roots that are not there, stores that cannot be used, a disk that is full. Prints nothing."""

from __future__ import annotations

import os
import pathlib
import shutil
from collections.abc import Iterator

from tes_server import errors
from tes_server.plan import paths
from tes_server.settings import Settings

LITTLE = 100_000_000
"""Bytes of free disk that are told as full: records and logs of a task take some kB, its files what they take."""


def absent(settings: Settings) -> list[str]:
    """File roots that are not there: a slip of the pen, or a file system that is mounted later."""
    return [root for root in settings.files.roots if not pathlib.Path(root).is_dir()]


def exposed(settings: Settings) -> Iterator[tuple[str, str]]:
    """Files of this server that every task may read by a `file://` url: their keys in the settings, and the root that holds each."""
    files = {
        "auth.users_file": settings.auth.users_file,
        "store.url_file": settings.store.url_file,
        "log.audit": settings.log.audit,
        "scan.docker_config": settings.scan.docker_config,
        **{f"auth.issuers[{number}].client_secret_file": issuer.client_secret_file for number, issuer in enumerate(settings.auth.issuers)},
        **{f"storage[{number}].file": store.file for number, store in enumerate(settings.storage)},
        **{f"local.secrets.{name}": place for name, place in settings.local.secrets.items()},
        **{f"local.scan_secrets.{name}": place for name, place in settings.local.scan_secrets.items()},
    }
    for key, file in files.items():
        for root in (*settings.files.roots, *settings.files.live_mounts):
            if file.startswith("/") and paths.below(os.path.realpath(file), os.path.realpath(root)):
                yield key, root
                break


def unreadable(settings: Settings) -> Iterator[tuple[str, str]]:
    """Secrets of this machine that whoever asks here cannot read: their keys in the settings, and why. Nothing of what they hold."""
    from tes_server.runner import local_secrets

    for kind, references in (("secrets", settings.local.secrets), ("scan_secrets", settings.local.scan_secrets)):
        for name, reference in references.items():
            try:
                local_secrets.look(reference)
            except errors.StagingError as cause:
                yield f"local.{kind}.{name}", cause.public


def ungranted(settings: Settings) -> str:
    """What to say where there is sign-in, something of the site's to name, and nobody who may; or ""."""
    there = settings.files.roots or settings.files.live_mounts or settings.storage or settings.local.secrets or settings.kubernetes.secrets
    if settings.grants or not settings.auth.modes or not there:
        return ""
    return "owners are granted nothing: tasks may name no file, store or secret of this site (see the setting `grants`)"


def stores(settings: Settings, *, ask: bool) -> Iterator[tuple[str, str, errors.StagingError | None]]:
    """Each object store: its url, what can be said of it, or why it cannot be used. Without `ask` only its credentials are looked up."""
    if not settings.storage:
        return
    from tes_server import site_rules
    from tes_server.filer import store_check

    access = site_rules.access(settings, server=True)
    for store in access.stores:
        try:
            store_check.credentials(store, access)
            yield store.url, store_check.ask(store, access) if ask else "", None
        except errors.StagingError as cause:
            yield store.url, "", cause


def full(data: pathlib.Path) -> str:
    """What to say of a disk on which hardly a task can run, or ""."""
    free = shutil.disk_usage(data).free
    return f"the disk of the data directory {data} is full: {free / 1e6:.0f} MB are free" if free < LITTLE else ""
