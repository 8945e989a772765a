"""`tes-server`: serve, reconcile, plan, settings, doctor, images, pools, scan, store, users. Reads flags, prints, and calls `app` and `processes`.

Heavy imports stay inside the commands: PROMETHEUS_MULTIPROC_DIR must be set before the metrics are made, and
`--help` should not wait for SDKs.
"""

from __future__ import annotations

import datetime
import json
import logging
import os
import pathlib
import sys
from typing import Any

import click

import tes_server
from tes_server import (
    cli_options,
    configuration,
    doctor_cli,
    errors,
    images_cli,
    metrics_files,
    pools_cli,
    redaction,
    scan_cli,
    signals,
    site_looks,
    store_cli,
    users_cli,
)
from tes_server.settings import Settings


class _Group(click.Group):
    """Errors of ours are one line on stderr and exit code 2."""

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except errors.TesServerError as cause:
            click.echo(redaction.text(f"tes-server: {cause}"), err=True)
            sys.exit(2)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(tes_server.__version__, prog_name="tes-server")
def main() -> None:
    """A GA4GH Task Execution Service (TES 1.1)."""


@main.command(short_help="Serve the API and run tasks.")
@cli_options.site
@click.option("--host", help="Address to listen on (default 127.0.0.1).")
@click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on (default 8000; 0 takes a free one).")
@click.option("--workers", type=click.IntRange(min=1), help="API processes (default 1).")
@click.option("--api-only", is_flag=True, help="Only the API; `tes-server reconcile` runs the tasks.")
def serve(host: str | None, port: int | None, workers: int | None, api_only: bool, **site: Any) -> None:
    """Serve the API and run tasks, until TERM or Ctrl-C."""
    settings = cli_options.settings(site, {"server.host": host, "server.port": port, "server.workers": workers})
    data = _with_metrics(settings)
    from tes_server import app, auth_rules, platforms, processes, scan_looks, server_rules, telemetry

    app.check(settings)
    auth_rules.check_files(settings.auth)
    certificate = server_rules.certificate(settings.server)
    secure = server_rules.told(settings.server, certificate, app.clock()) if certificate else ""
    auth_rules.check_audit(settings.log.audit)
    telemetry.set_up_logging(settings.log.level)
    held = None

    def ready() -> None:
        host, port = listener.getsockname()[:2]
        where = f"[{host}]" if ":" in host else host
        shared = "" if app.store_url(settings).startswith("sqlite:") else f", tasks in {app.store_place(settings)}"
        ways = ", ".join(platform.how(settings) for platform in platforms.enabled(settings))
        click.echo(f"tes-server {tes_server.__version__} listens on http{'s' if secure else ''}://{where}:{port} ({ways}, data in {data}{shared})")
        if settings.auth.allow_open and not settings.auth.modes:
            click.echo("WARNING: there is no sign-in: everybody who reaches this port can run programs here", err=True)
        if secure.endswith("renew it"):
            click.echo(f"WARNING: {secure}", err=True)
        for root in site_looks.absent(settings):
            click.echo(f"WARNING: the file root {root} (--root, files.roots) is not a directory", err=True)
        for key, root in site_looks.exposed(settings):
            click.echo(f"WARNING: tasks may read the file of {key}: it is in the file root {root}", err=True)
        for url, _, cause in site_looks.stores(settings, ask=False):
            if cause is not None:
                click.echo(f"WARNING: store {url}: {cause.public}", err=True)
        if site_looks.ungranted(settings):
            click.echo(f"WARNING: {site_looks.ungranted(settings)}", err=True)
        for key, words in scan_looks.doubts(settings, datetime.datetime.now(datetime.UTC).date()):
            click.echo(f"WARNING: {key}: {words}", err=True)
        if site_looks.full(data):
            click.echo(f"WARNING: {site_looks.full(data)}", err=True)

    try:
        if not api_only:
            held = processes.own(data)
            metrics_files.clear()
            settings = _checked(settings, data)
        listener = processes.listen(settings.server.host, settings.server.port)
        sys.exit(processes.serve(settings, listener, api_only=api_only, ready=ready))
    finally:
        if held is not None:
            os.close(held)


@main.command(short_help="Run the tasks of a store served by another process.")
@cli_options.site
def reconcile(**site: Any) -> None:
    """Run the tasks of a store whose API is served by another process, until TERM or Ctrl-C.

    With a store that several share, a second one on the same data directory stands by and takes over when the first one ends.
    """
    settings = cli_options.settings(site)
    data = _with_metrics(settings)
    from tes_server import app, processes, telemetry

    app.check(settings)
    telemetry.set_up_logging(settings.log.level)

    def stand_by() -> None:
        telemetry.log(logging.getLogger(__name__), logging.WARNING, "reconciler.stands_by", data=str(data), pid=os.getpid())

    shared = not app.store_url(settings).startswith("sqlite:")
    held = processes.own(data, stand_by if shared else None)  # two that resume the same attempts would run them both
    try:
        with processes.metrics(settings):
            processes.reconcile(_checked(settings, data))
    finally:
        os.close(held)


def _checked(settings: Settings, data: pathlib.Path) -> Settings:
    """With the engine that works here. On a full disk an engine cannot be made in ways that do not tell it."""
    from tes_server import machine

    if not settings.local.enabled:
        return settings
    settings = machine.engine_settings(settings)
    try:
        machine.engine(settings, settings.local.engine).check()
    except errors.EngineError as cause:
        if site_looks.full(data):
            raise errors.SettingsError(f"{site_looks.full(data)} ({cause.public})", "data") from cause
        raise
    return settings


def _with_metrics(settings: Settings) -> pathlib.Path:
    """Prepare the directory that lets several processes share one /metrics, before anything imports the metrics.

    From here on TERM and Ctrl-C unwind this process, also while it starts or stands by: what it shares must go with it.
    """
    signals.unwind(*signals.ASKED)
    data = settings.data_directory(pathlib.Path.home(), os.environ.get("XDG_DATA_HOME", ""))
    try:
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
        with signals.put_off(*signals.ASKED):
            metrics_files.share(data)
            click.get_current_context().call_on_close(metrics_files.leave)
    except OSError as cause:
        raise errors.SettingsError(f"{data} cannot be used: {cause.strerror}", "data") from cause
    return data


@main.command(short_help="Print where and how a task would run.")
@cli_options.site
@click.argument("task", type=click.File("rb"))
@click.option("--owner", default="anonymous", show_default=True, help="Owner to route and plan for.")
def plan(task: Any, owner: str, **site: Any) -> None:
    """Print where a task (JSON file or -) would run, by which rule, and what it would do there, without credentials in urls. Creates nothing."""
    import msgspec

    from tes_server import app, machine
    from tes_server.api import reading
    from tes_server.model import views
    from tes_server.plan import placing
    from tes_server.plan.route import Rule

    settings = machine.engine_settings(cli_options.settings(site))
    app.check(settings)
    spec = views.with_types(reading.task(task.read()))
    rules = [msgspec.convert(rule, Rule, from_attributes=True) for rule in settings.routes]
    placed = placing.place(spec, "task", owner, rules, app.targets(settings))
    shown = {"backend": placed.route.backend, "rule": placed.route.rule, "warnings": placed.compiled.warnings, "plan": placed.compiled.plan}
    click.echo(redaction.json_bytes(msgspec.json.format(msgspec.json.encode(shown), indent=2)))


@main.command(short_help="Print the settings in force, or all there are.")
@click.option("--markdown", "form", flag_value="markdown", help="As a table, the text of docs/settings.md.")
@click.option("--schema", "form", flag_value="schema", help="As a JSON schema of the TOML file.")
@click.option("--config", type=click.Path(path_type=pathlib.Path), help="TOML file with settings (or TES_SERVER_CONFIG).")
def settings(form: str | None, config: pathlib.Path | None) -> None:
    """Print the settings in force (as JSON), or what settings there are. Exit code 2 if they contradict each other."""
    if form == "markdown":
        click.echo(configuration.markdown(), nl=False)
    elif form == "schema":
        click.echo(json.dumps(configuration.schema(), indent=2, ensure_ascii=False))
    else:
        from tes_server import app

        known = cli_options.load(config, {})
        click.echo(configuration.shown(known))
        app.check(known)  # after they were shown: what is wrong is among them


@main.command(hidden=True)
def node() -> None:
    """Run the attempt that the environment names, on a node of a batch service: what the jobs of AWS Batch start: they cannot replace an image's entry."""
    from tes_server.runner import node_main

    sys.exit(node_main.main())


main.add_command(doctor_cli.doctor)
main.add_command(images_cli.images)
main.add_command(pools_cli.pools)
main.add_command(scan_cli.scan)
main.add_command(store_cli.store)
main.add_command(users_cli.users)
