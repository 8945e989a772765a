"""From the settings to what makes digests of names of images: registries as this server reaches them, and this machine's engine.

It must never ask anybody by itself.
"""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Iterator

from tes_server import machine, platforms, scan_rules
from tes_server.digests import kept, logins, lookup
from tes_server.digests.base import Resolver
from tes_server.digests.lookup import Lookup, Place
from tes_server.digests.resolver import LookupResolver
from tes_server.runner.image_registry import Registry
from tes_server.settings import Settings


def registry(settings: Settings) -> Registry:
    """All registries, with this server's own logins: those of the login file, else its identity in the registry's cloud."""
    scan = settings.scan
    return Registry(
        mirrors=machine.mirrors(settings),
        plain_http=frozenset(settings.sandbox.plain_http),
        addresses=scan.registries,
        docker_config=pathlib.Path(scan.docker_config) if scan.docker_config else machine.docker_config(),
        identity=logins.Logins(settings.aws_batch.profile, settings.azure_batch.client_id).find,
        pace=lookup.PACE,
    )


def resolver(settings: Settings) -> Resolver:
    """What the reconciler asks. `local.engine` must be chosen (`machine.engine_settings`)."""
    with contextlib.ExitStack() as opened:
        look = opened.enter_context(looking(settings))
        return LookupResolver(look, opened.pop_all().close)


@contextlib.contextmanager
def looking(settings: Settings) -> Iterator[Lookup]:
    """One look-up at a time, for people. As for `resolver`."""
    with contextlib.ExitStack() as opened:
        places = {platform.name: _place(settings, platform.name, opened) for platform in platforms.enabled(settings)}
        look = Lookup(registry(settings), places, settings.scan.registries)
        opened.callback(look.close)
        yield look


def _place(settings: Settings, backend: str, opened: contextlib.ExitStack) -> Place:
    architecture = scan_rules.architecture(settings, backend)
    if backend != "local":
        return Place(architecture=architecture)
    host = settings.local.engine == "sandbox" and settings.sandbox.allow_host
    return Place(architecture=architecture, here=True, look=_engine(settings, opened), host=host)


def _engine(settings: Settings, opened: contextlib.ExitStack) -> kept.Look:
    if settings.local.engine not in machine.DAEMONS:
        return kept.of_sandbox(machine.images(settings))
    from tes_server.runner.docker_client import Daemon

    product, wanted = machine.daemon(settings, settings.local.engine)
    daemon = Daemon(wanted.url, product, kept.TIMEOUT)
    opened.callback(daemon.close)
    return kept.of_daemon(daemon)
