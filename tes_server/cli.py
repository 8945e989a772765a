"""`tes-server`: serve, reconcile, plan, settings, doctor, images, store. Reads flags, prints, and calls `app` and `processes`.

Heavy imports stay inside the commands: PROMETHEUS_MULTIPROC_DIR must be set before the metrics are made, and
`--help` should not wait for SDKs.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import pathlib
import shutil
import signal
import sys
from collections.abc import Iterator
from typing import Any

import click

import tes_server
from tes_server import cli_options, configuration, errors, images_cli, metrics_files, store_cli
from tes_server.settings import Settings

LITTLE = 100_000_000
"""Bytes of free disk that are told as full: records and logs of a task take some kB, its files what they take."""


class _Group(click.Group):
    """Errors of ours are one line on stderr and exit code 2."""

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except errors.TesServerError as cause:
            click.echo(f"tes-server: {cause}", err=True)
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
    from tes_server import app, processes, telemetry

    app.check(settings)
    telemetry.set_up_logging(settings.log.level)
    held = None

    def ready() -> None:
        host, port = listener.getsockname()[:2]
        where = f"[{host}]" if ":" in host else host
        shared = "" if app.store_url(settings).startswith("sqlite:") else f", tasks in {app.store_place(settings)}"
        click.echo(f"tes-server {tes_server.__version__} listens on http://{where}:{port} ({_ways(settings)}, data in {data}{shared})")
        if settings.auth.allow_open:
            click.echo("WARNING: there is no sign-in: everybody who reaches this port can run programs here", err=True)
        for root in _absent(settings):
            click.echo(f"WARNING: the file root {root} (--root, files.roots) is not a directory", err=True)
        for url, _, cause in _stores(settings, ask=False):
            if cause is not None:
                click.echo(f"WARNING: store {url}: {cause.public}", err=True)
        if _full(data):
            click.echo(f"WARNING: {_full(data)}", err=True)

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
    from tes_server import app

    if not settings.local.enabled:
        return settings
    settings = app.engine_settings(settings)
    try:
        app.engine(settings, settings.local.engine).check()
    except errors.EngineError as cause:
        if _full(data):
            raise errors.SettingsError(f"{_full(data)} ({cause.public})", "data") from cause
        raise
    return settings


def _ways(settings: Settings) -> str:
    """How tasks run here, in a few words."""
    here = [f"engine {settings.local.engine}"] if settings.local.enabled else []
    there = [f"namespace {settings.kubernetes.namespace}"] if settings.kubernetes.namespace else []
    return ", ".join(here + there)


def _absent(settings: Settings) -> list[str]:
    """File roots that are not there: a slip of the pen, or a file system that is mounted later."""
    return [root for root in settings.files.roots if not pathlib.Path(root).is_dir()]


def _stores(settings: Settings, *, ask: bool) -> Iterator[tuple[str, str, errors.StagingError | None]]:
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


def _full(data: pathlib.Path) -> str:
    """What to say of a disk on which hardly a task can run, or ""."""
    free = shutil.disk_usage(data).free
    return f"the disk of the data directory {data} is full: {free / 1e6:.0f} MB are free" if free < LITTLE else ""


def _with_metrics(settings: Settings) -> pathlib.Path:
    """Prepare the directory that lets several processes share one /metrics, before anything imports the metrics.

    From here on TERM and Ctrl-C unwind this process, also while it starts or stands by: what it shares must go with it.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: sys.exit(0))
    data = settings.data_directory(pathlib.Path.home(), os.environ.get("XDG_DATA_HOME", ""))
    try:
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
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
    """Print where a task (JSON file or -) would run, by which rule, and what it would do there. Creates nothing."""
    import msgspec

    from tes_server import app
    from tes_server.api import reading
    from tes_server.model import views
    from tes_server.plan import placing
    from tes_server.plan.route import Rule

    settings = app.engine_settings(cli_options.settings(site))
    app.check(settings)
    spec = views.with_types(reading.task(task.read()))
    rules = [msgspec.convert(rule, Rule, from_attributes=True) for rule in settings.routes]
    placed = placing.place(spec, "task", owner, rules, app.targets(settings))
    shown = {"backend": placed.route.backend, "rule": placed.route.rule, "warnings": placed.compiled.warnings, "plan": placed.compiled.plan}
    click.echo(msgspec.json.format(msgspec.json.encode(shown), indent=2))


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


@main.command(short_help="Say what works on this machine.")
@cli_options.site
def doctor(**site: Any) -> None:
    """Say what works on this machine, what does not, and what to do about it. Exit code 1 if tasks cannot run."""
    from tes_server import app

    settings = cli_options.settings(site)
    app.check(settings)
    works = not settings.local.enabled
    data = app.data_directory(settings)
    click.echo(f"no    {_full(data)}" if _full(data) else f"ok    data directory {data}")
    stored, said = store_cli.condition(settings)
    click.echo(f"{'ok' if stored else 'no':5} tasks in {said}")
    there = _cluster_works(settings) if settings.kubernetes.namespace else True
    for name in app.ENGINES if settings.local.enabled else ():
        wanted = settings.local.engine in ("auto", name)
        try:
            said = app.engine(settings, name).check()
        except errors.EngineError as cause:
            needed = wanted and not works
            click.echo(f"{'no   ' if needed else '-    '} engine {name}{'' if needed else ' (not needed)'}: {cause.public}")
            continue
        works = works or wanted
        click.echo(f"ok    engine {name}: {said}" + ("" if wanted else " (not chosen: local.engine)"))
    chosen = app.engine_settings(settings)
    if settings.local.enabled:
        room = app.capabilities(chosen)
        click.echo(f"ok    for tasks: {room.cpus:g} cores, {room.ram_bytes / 1e9:.1f} GB of memory, {room.disk_bytes / 1e9:.0f} GB of disk")
    if settings.local.enabled and chosen.local.engine == "sandbox" and not settings.sandbox.allow_host:
        click.echo("note  this machine's own programs (image host) are not allowed: sandbox.allow_host = true (--allow-host)")
    for url, said, fault in _stores(settings, ask=True):
        click.echo(f"no    store {url}: {fault.code}: {fault.public}" if fault else f"ok    store {url}: {said}")
    _say_archive(settings)
    if settings.local.enabled and not settings.files.roots:
        click.echo("note  no file roots: tasks cannot name files of this machine (--root DIR, files.roots)")
    for root in _absent(settings):
        click.echo(f"note  the file root {root} is not a directory")
    sys.exit(0 if works and there and stored else 1)


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


def _cluster_works(settings: Settings) -> bool:
    """Say whether the cluster answers, and lets this server run tasks."""
    from tes_server import cluster_rules
    from tes_server.backends.kubernetes import calls, rights

    cluster = settings.kubernetes
    try:
        server = calls.connect(cluster.kubeconfig, cluster.context)
        try:
            rights.check(server, cluster.namespace, cluster_rules.trial(settings))
        finally:
            server.close()
    except errors.TesServerError as cause:
        click.echo(f"no    cluster, namespace {cluster.namespace}: {cause}")
        return False
    click.echo(f"ok    cluster, namespace {cluster.namespace}: takes tasks, which can be watched and stopped")
    return True


main.add_command(images_cli.images)
main.add_command(store_cli.store)
