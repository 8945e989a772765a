"""`tes-server pools`: the pools of Azure Batch that the settings name: plan, apply, status.

Heavy imports stay inside the commands, as in `cli`.
"""

from __future__ import annotations

import contextlib
import json
import pathlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from tes_server import cli_options, errors
from tes_server.settings import Settings

if TYPE_CHECKING:
    from tes_server.backends.azure_batch.fleet import Done, Fleet, Found
    from tes_server.backends.azure_batch.pool_status import Status
    from tes_server.backends.azure_batch.pools import Pool

Command = Callable[..., Any]


@click.group(short_help="Pools of Azure Batch: plan, apply, status.")
def pools() -> None:
    """The pools of Azure Batch that the settings name (`azure_batch.pools`): what would be made or changed, making it so, and how they are.

    A pool is made with this server's image already on its nodes, a start task that shuts tasks out of the nodes' credentials, and an autoscale
    formula: it grows with the tasks that wait, and a node finishes its tasks before it goes. Azure Resource Manager is asked where
    azure_batch.subscription and resource_group are set: for sizes of virtual machines, and to make pools with identities.
    """


def _options(command: Command) -> Command:
    """What all these commands take."""
    options = (
        click.argument("names", metavar="[NAME]...", nargs=-1),
        click.option("--config", type=click.Path(path_type=pathlib.Path), help="TOML file with settings (or TES_SERVER_CONFIG)."),
        click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), help="Events below it are left out."),
        click.option("--json", "as_json", is_flag=True, help="As JSON, a list of one object a pool."),
    )
    for option in reversed(options):
        command = option(command)
    return command


@pools.command(short_help="Say what would be made or changed.")
@_options
def plan(names: tuple[str, ...], as_json: bool, **given: Any) -> None:
    """Say what `apply` would make or change, with what a node of each pool has for tasks and what its formula comes to now. Changes nothing.

    Without NAMEs: all pools of the settings.
    """
    from tes_server import pool_rules

    settings = _settings(given)
    with _fleet(settings) as (fleet, wanted):
        found = [fleet.look(pool) for pool in _chosen(names, wanted)]
        others = fleet.others(pool_rules.server(settings), [pool.id for pool in wanted])
    if as_json:
        click.echo(_json([_planned(one) for one in found]))
        return
    for one in found:
        click.echo(f"{one.pool.id}: {_described(one.pool)}")
        for line in _intents(one):
            click.echo(f"  {line}")
    for name in others:
        click.echo(f"{name}: made by this server, and not in the settings: nothing is done with it")


@pools.command(short_help="Make and change pools as the settings want them.")
@_options
@click.option("--drain", metavar="NAME", multiple=True, help="Let this pool's nodes finish their tasks and go, if that is what it takes to change it.")
def apply(names: tuple[str, ...], drain: tuple[str, ...], as_json: bool, **given: Any) -> None:
    """Make the pools that are missing, and change those that are not as the settings want them. A second time changes nothing.

    Formula, start task (for nodes that start from then on) and metadata change at any time. Size, image, network, slots and identities of a pool
    change only while it has no nodes, and until then nothing of it does: with --drain NAME its nodes take no more tasks and go when theirs have
    ended, whereupon the same command changes it. No task is ended and no pool deleted. Exit code 1 if something is left to do.
    """
    from tes_server.backends.azure_batch.fleet import Done

    settings = _settings(given)
    told: list[dict[str, Any]] = []
    with _fleet(settings) as (fleet, wanted):
        _chosen(drain, wanted)
        for found in [fleet.look(pool) for pool in _chosen((*names, *drain) if names else (), wanted)]:
            try:
                done = fleet.apply(found, drain=found.pool.id in drain)
            except errors.Unavailable as cause:  # the others are made nevertheless
                done = Done(left=(cause.public,))
            told.append({"pool": found.pool.id, **done._asdict()})
            if not as_json:
                for line in _results(done):
                    click.echo(f"{found.pool.id}: {line}")
    if as_json:
        click.echo(_json(told))
    sys.exit(1 if any(one["left"] for one in told) else 0)


@pools.command(short_help="Say how they are.")
@_options
def status(names: tuple[str, ...], as_json: bool, **given: Any) -> None:
    """Say how the pools are: nodes by state, waiting and running tasks, what the formula came to, and what keeps nodes from coming.

    Lines that begin with ! are for somebody to look at. Nothing but the Batch service is asked.
    """
    from tes_server import azure_rules, pool_rules
    from tes_server.backends.azure_batch import pool_status
    from tes_server.backends.azure_batch.calls import Calls
    from tes_server.backends.azure_batch.fleet import Fleet

    settings = _settings(given)
    pool_rules.check(settings)
    known = list(settings.azure_batch.pools)
    chosen = _named(names, known)
    with contextlib.closing(Calls(azure_rules.account(settings))) as calls:
        fleet = Fleet(calls, None)
        told = list(zip(chosen, fleet.statuses(chosen), strict=True))
        others = fleet.others(pool_rules.server(settings), known)
    if as_json:
        click.echo(_json([_stated(name, one) for name, one in told]))
        return
    for name, one in told:
        click.echo(f"{name}:")
        for line in pool_status.lines(one) if one is not None else ["! is not there: `tes-server pools apply` makes it"]:
            click.echo(f"  {line}")
    for name in others:
        click.echo(f"{name}:\n  ! made by this server, and not in the settings")


def _settings(given: dict[str, Any]) -> Settings:
    from tes_server import telemetry

    settings = cli_options.load(given["config"], {"log.level": given["log_level"]})
    telemetry.set_up_logging("error" if given["log_level"] is None else settings.log.level)  # the SDK warns of each try of what is told in the end
    return settings


@contextlib.contextmanager
def _fleet(settings: Settings) -> Iterator[tuple[Fleet, list[Pool]]]:
    """All pools of the settings, with sizes looked up where they can be."""
    from tes_server import azure_rules, pool_rules
    from tes_server.backends.azure_batch import sizes
    from tes_server.backends.azure_batch.arm import Manager
    from tes_server.backends.azure_batch.calls import Calls
    from tes_server.backends.azure_batch.fleet import Fleet

    pool_rules.check(settings)
    with contextlib.ExitStack() as opened:
        calls = opened.enter_context(contextlib.closing(Calls(azure_rules.account(settings))))
        manager, known = None, None
        if (place := pool_rules.place(settings)) is not None:
            manager = opened.enter_context(contextlib.closing(Manager(place)))
            known = sizes.table(manager.sizes(pool_rules.location(settings)))
        yield Fleet(calls, manager), pool_rules.fleet(settings, known)


def _chosen(names: Sequence[str], wanted: Sequence[Pool]) -> list[Pool]:
    by_name = {pool.id: pool for pool in wanted}
    return [by_name[name] for name in _named(names, list(by_name))]


def _named(names: Sequence[str], known: Sequence[str]) -> list[str]:
    """The names that were given, or all."""
    for name in names:
        if name not in known:
            raise click.UsageError(f"azure_batch.pools names no {name!r}: it has {', '.join(known)}")
    return list(dict.fromkeys(names)) or list(known)


def _described(pool: Pool) -> str:
    node = pool.node
    gpus = f", {node.gpus} GPUs" if node.gpus else ""
    has = f"{node.cpus:g} cores, {node.ram_gb:g} GB of memory, {node.disk_gb:g} GB of disk{gpus}"
    kind = "Spot" if pool.spot else "dedicated"
    return f"{pool.vm_size} ({has}), {kind}, {pool.slots} slots a node, {pool.least} to {pool.most} nodes"


def _intents(found: Found) -> Iterator[str]:
    """What `apply` would do, and would not."""
    if found.pool.retired:
        yield f"Azure Batch makes no nodes of {found.pool.vm_size} any more from {found.pool.retired} on: choose another vm_size in time"
    if found.there is None:
        yield "would be made"
        return
    if found.going:
        yield "is being deleted: `apply` makes it anew when it is gone"
        return
    for change in found.due:
        yield f"would change {change}"
    for change in found.blocked:
        yield f"not while it has {found.nodes} nodes (apply --drain {found.pool.id}): {change}"
    for change in found.later:
        yield f"would change, when it has no nodes, {change}"
    if not found.changes:
        yield "as it is to be"
    if found.wrong:
        yield f"Azure Batch cannot evaluate its formula: {found.wrong}"
    elif found.asks is not None:
        yield f"its formula comes to {found.asks} nodes now"


def _results(done: Done) -> Iterator[str]:
    """What `apply` did."""
    yield from done.did
    for words in done.left:
        yield f"not done: {words}"
    for words in done.later:
        yield f"when it has no nodes: {words}"
    if not any(done):
        yield "as it is to be"


def _planned(found: Found) -> dict[str, Any]:
    pool = found.pool
    changes = [{"what": one.what, "when": one.when.value, "there": one.there, "wanted": one.wanted} for one in found.changes]
    return {
        "pool": pool.id,
        "there": found.there is not None,
        "vm_size": pool.vm_size,
        "retired": pool.retired,
        "node": pool.node._asdict(),
        "spot": pool.spot,
        "slots": pool.slots,
        "nodes": found.nodes,
        "changes": changes,
        "blocked": bool(found.blocked),
        "formula": pool.formula,
        "formula_nodes": found.asks,
        "formula_error": found.wrong,
    }


def _stated(name: str, told: Status | None) -> dict[str, Any]:
    if told is None:
        return {"pool": name, "there": False}
    found = told._asdict()
    del found["id"]
    return {"pool": name, "there": True, **found, "tasks": told.tasks._asdict(), "errors": [{"code": code, "message": words} for code, words in told.errors]}


def _json(told: object) -> str:
    return json.dumps(told, indent=2)
