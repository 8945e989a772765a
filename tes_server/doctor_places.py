"""What `tes-server doctor` says of each place for tasks: whether it works, and what to do where it does not.

Heavy imports stay inside the functions: `--help` names the places, and should not wait for SDKs.
"""

from __future__ import annotations

from collections.abc import Callable

import click

from tes_server import errors, site_looks
from tes_server.settings import Settings


def _engines_work(settings: Settings) -> bool:
    """Say which engines there are, and what this machine has for tasks."""
    from tes_server import machine

    works = False
    for name in machine.ENGINES:
        wanted = settings.local.engine in ("auto", name)
        try:
            said = machine.engine(settings, name).check()
        except errors.EngineError as cause:
            needed = wanted and not works
            click.echo(f"{'no   ' if needed else '-    '} engine {name}{'' if needed else ' (not needed)'}: {cause.public}")
            continue
        works = works or wanted
        click.echo(f"ok    engine {name}: {said}" + ("" if wanted else " (not chosen: local.engine)"))
    chosen = machine.engine_settings(settings)
    room = machine.capabilities(chosen)
    click.echo(f"ok    for tasks: {room.cpus:g} cores, {room.ram_bytes / 1e9:.1f} GB of memory, {room.disk_bytes / 1e9:.0f} GB of disk")
    if chosen.local.engine == "sandbox" and not settings.sandbox.allow_host:
        click.echo("note  this machine's own programs (image host) are not allowed: sandbox.allow_host = true (--allow-host)")
    if not settings.files.roots:
        click.echo("note  no file roots: tasks cannot name files of this machine (--root DIR, files.roots)")
    for root in site_looks.absent(settings):
        click.echo(f"note  the file root {root} is not a directory")
    for key, why in site_looks.unreadable(settings):
        click.echo(f"note  {key}: {why}")
    for key, root in site_looks.exposed(settings):
        click.echo(f"no    tasks may read the file of {key}: it is in the file root {root}")
        works = False
    return works


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


def _aws_works(settings: Settings) -> bool:
    """Say whether AWS Batch answers, lets this server run tasks, and has queues for them."""
    from tes_server import aws_rules
    from tes_server.backends.aws_batch import rights
    from tes_server.backends.aws_batch.calls import Calls

    batch = settings.aws_batch
    try:
        server = Calls(batch.region, batch.profile)
        try:
            faults = rights.faults(server, aws_rules.site(settings), batch.events)
        finally:
            server.close()
    except errors.TesServerError as cause:
        click.echo(f"no    AWS Batch, queue {batch.queue}: {cause}")
        return False
    faults += _spool_faults(settings)
    for fault in faults:
        click.echo(f"no    AWS Batch: {fault}")
    if not faults:
        click.echo(f"ok    AWS Batch in {server.region}, queue {batch.queue}: takes tasks, which can be looked at and stopped; the spool takes plans")
    if not batch.events:
        click.echo(f"note  no queue of events (aws_batch.events): jobs are asked for every {batch.poll:g} seconds")
    return not faults


def _azure_works(settings: Settings) -> bool:
    """Say whether Azure Batch answers, lets this server run tasks, and has pools for them."""
    from tes_server import azure_rules
    from tes_server.backends.azure_batch import calls, rights

    batch = settings.azure_batch
    try:
        server = calls.Calls(azure_rules.account(settings))
        try:
            faults = rights.faults(server, azure_rules.site(settings))
        finally:
            server.close()
    except errors.TesServerError as cause:
        click.echo(f"no    Azure Batch, {batch.url}: {cause}")
        return False
    faults += _spool_faults(settings)
    for fault in faults:
        click.echo(f"no    Azure Batch: {fault}")
    if not faults:
        pools = ", ".join(batch.pools)
        click.echo(f"ok    Azure Batch, {batch.url}, pools {pools}: takes tasks, which can be looked at and stopped; the spool takes plans")
    return not faults


def _spool_faults(settings: Settings) -> list[str]:
    """What is wrong with the spool."""
    from tes_server import platforms

    try:
        platforms.spool(settings).check()
    except errors.TesServerError as cause:
        return [f"spool {settings.spool.url}: {cause}"]
    return []


PLACES: dict[str, Callable[[Settings], bool]] = {
    "local": _engines_work,
    "kubernetes": _cluster_works,
    "aws_batch": _aws_works,
    "azure_batch": _azure_works,
}
"""What looks at each of `platforms.PLATFORMS`, by its name: prints what it finds, and answers whether tasks can run there."""
