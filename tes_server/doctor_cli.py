"""`tes-server doctor`: what works on this machine and on the platforms of the settings, what does not, and what to do about it.

Heavy imports stay inside the command, as in `cli`.
"""

from __future__ import annotations

import functools
import sys
from typing import Any

import click

from tes_server import cli_options, doctor_places, doctor_scans, errors, site_looks, store_cli
from tes_server.settings import Settings


@click.command(short_help="Say what works on this machine.")
@cli_options.site
@click.option("--backend", help=f"Look only at one place for tasks: {', '.join(doctor_places.PLACES)}.")
def doctor(backend: str | None, **site: Any) -> None:
    """Say what works on this machine, what does not, and what to do about it. Exit code 1 unless tasks can run: places, store, scans, sign-in."""
    from tes_server import app, machine

    settings = cli_options.settings(site)
    app.check(settings)
    there = app.backend_names(settings)
    if backend is not None and backend not in there:
        raise errors.SettingsError(f"the settings have no place for tasks of that name; they have {', '.join(there)}", "--backend")
    data = machine.data_directory(settings)
    full = site_looks.full(data)
    click.echo(f"no    {full}" if full else f"ok    data directory {data}")
    stored, said = store_cli.condition(settings)
    click.echo(f"{'ok' if stored else 'no':5} tasks in {said}")
    works = [doctor_places.PLACES[name](settings) for name in there if backend in (None, name)]
    for url, said, fault in site_looks.stores(settings, ask=True):
        click.echo(f"no    store {url}: {fault.code}: {fault.public}" if fault else f"ok    store {url}: {said}")
    _say_registries(settings)
    scans = doctor_scans.say(settings, backend)
    _say_archive(settings)
    _say_grants(settings)
    doors = _say_sign_in(settings) & _say_tls(settings) & _say_audit(settings)
    sys.exit(0 if all(works) and scans and stored and doors else 1)


def _say_sign_in(settings: Settings) -> bool:
    """Whether users can sign in, where they have to."""
    from tes_server import auth_rules

    found = list(auth_rules.condition(settings.auth))
    for works, said in found:
        click.echo(f"{'ok' if works else 'no':5} {said}")
    return all(works for works, _ in found)


def _say_grants(settings: Settings) -> None:
    """Grants that nothing comes of, and stores of owners who are granted nothing there."""
    from tes_server import app, auth_rules, grant_rules

    targets = app.targets(settings).values() if settings.auth.modes else ()
    for key, why in grant_rules.idle(settings, targets) if targets else ():
        click.echo(f"no    {key}: {why}")
    known = auth_rules.owners(settings.auth)
    for key, why in grant_rules.unknown(settings, known) if known else ():
        click.echo(f"note  {key}: {why}")
    if site_looks.ungranted(settings):
        click.echo(f"note  {site_looks.ungranted(settings)}")


def _say_tls(settings: Settings) -> bool:
    """Whether TLS works, where this server is to speak it, and until when."""
    from tes_server import app, server_rules

    found = server_rules.condition(settings.server, app.clock())
    if found is not None:
        click.echo(f"{'ok' if found[0] else 'no':5} {found[1]}")
    return found is None or found[0]


def _say_audit(settings: Settings) -> bool:
    """Whether the audit log can be written, where that is a file."""
    from tes_server import audit_rules, auth_rules

    place = audit_rules.place(settings)
    try:
        auth_rules.check_audit(place)
    except errors.SettingsError as cause:
        click.echo(f"no    audit log: {cause}")
        return False
    if place not in ("log", "none"):
        click.echo(f"ok    audit log {place}: can be written")
    return True


def _say_registries(settings: Settings) -> None:
    """Whether the registries that are reached by another address answer there; any other may be named by a task, or not."""
    from tes_server import digest_rules, scan_rules

    if not scan_rules.enabled(settings):
        return
    registry = digest_rules.registry(settings)
    for name, url in settings.scan.registries.items():
        try:
            registry.reach(name)
            click.echo(f"ok    registry {name} at {url}: can be asked for digests")
        except errors.EngineError as cause:
            click.echo(f"no    registry {name} at {url}: {cause.public} (scan.registries)")


def _say_archive(settings: Settings) -> None:
    """What becomes of old tasks, if they ever go."""
    from tes_server import app, site_rules
    from tes_server.control import retention

    url = settings.retention.archive
    if not settings.retention.days:
        return
    if not url:
        click.echo(f"note  tasks are removed {settings.retention.days:g} days after their end, and archived nowhere (retention.archive)")
        return
    try:
        retention.check(functools.partial(app.archive, settings))
        click.echo(f"ok    archive {url}: can be written to")
    except errors.TesServerError as cause:
        click.echo(f"no    archive {url}: {cause.public}; no task is removed until it can be written to")
    if site_rules.in_reach(url, settings):
        click.echo(f"note  tasks may read and write the archive {url}: files.roots or [[storage]] lets them (tasks = false)")
