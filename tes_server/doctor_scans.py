"""What `tes-server doctor` says of image scans: whether there is a scanner, what it signs in with, who it asks, and settings that hardly can be meant.

Heavy imports stay inside the functions, as in `cli`. This module must never start a scan, nor print a secret.
"""

from __future__ import annotations

import datetime

import click

from tes_server import errors
from tes_server.settings import Settings

PATIENCE = 5.0
"""Seconds for the answer of a Trivy server or a Console."""


def say(settings: Settings, backend: str | None) -> bool:
    """Say it; False if tasks (on `backend`, None = all) would wait for scans that cannot run."""
    from tes_server import scan_looks, scan_rules

    scanned = [name for name in scan_rules.scanned(settings) if backend in (None, name)]
    if not scanned:
        return True
    works = [_image(settings, name) for name in scanned]
    if "local" in scanned:
        works += [_secret(settings, variable) for variable in scan_looks.asked(settings)]
    for key, url in (("scan.server", settings.scan.server), ("scan.console", settings.scan.console)):
        if url:
            _service(key, url)
    for key, words in scan_looks.doubts(settings, datetime.datetime.now(datetime.UTC).date()):
        click.echo(f"note  {key}: {words}")
    return all(works)


def _image(settings: Settings, backend: str) -> bool:
    """Whether there is the scanner's image, for the machines of a backend."""
    from tes_server import digest_rules, machine
    from tes_server.digests.base import Resolved

    scan = settings.scan
    try:
        chosen = machine.engine_settings(settings) if backend == "local" else settings
    except errors.EngineError:
        return False  # which was told of the place itself
    with digest_rules.looking(chosen) as look:
        answer = look(scan.image, backend)
    if isinstance(answer, Resolved):
        click.echo(f"ok    scanner {scan.scanner} for {backend}: {scan.image} is there")
        return True
    click.echo(f"no    scanner {scan.scanner} for {backend}: {answer.message} (scan.image)")
    return False


def _secret(settings: Settings, variable: str) -> bool:
    """Whether a secret of the scanner can be had on this machine."""
    from tes_server.plan.steps import Execute
    from tes_server.runner import local_secrets
    from tes_server.runner.vault import Vault

    step = Execute(index=0, image="", argv=(), env={variable: settings.scan.env[variable]})
    try:
        Vault(settings.local.scan_secrets, local_secrets.look, table="local.scan_secrets").opened(step)
    except errors.StagingError as cause:
        click.echo(f"no    {cause.public}")
        return False
    click.echo(f"ok    scan.env.{variable}: there is such a secret (local.scan_secrets)")
    return True


def _service(key: str, url: str) -> None:
    """Whether somebody answers at a url. Only a note: scanners ask from where they run, and this machine may not reach it."""
    import urllib3

    try:
        with urllib3.PoolManager(timeout=PATIENCE, retries=False) as pools:
            pools.request("GET", url, redirect=False)
        click.echo(f"ok    {key} {url}: answers")
    except urllib3.exceptions.HTTPError as cause:
        why = type(cause).__name__
        click.echo(f"note  {key} {url}: does not answer here ({why}); scanners ask it from where they run")
