"""`tes-server scan`: have an image scanned and see the verdict; list, show, forget, refresh verdicts.

They work beside running servers, on the same store; it is those that run the scans. Heavy imports stay inside the commands,
as in `cli`. Must never judge: that is the policy's.
"""

from __future__ import annotations

import contextlib
import datetime
import difflib
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click
import msgspec

from tes_server import cli_options, errors, scan_words
from tes_server.model.principal import SCANS
from tes_server.model.record import Query, Record, View
from tes_server.model.states import ENDS
from tes_server.model.verdict import Outcome, Verdict
from tes_server.settings import Settings

if TYPE_CHECKING:
    from tes_server.control.orders import Answer
    from tes_server.digests.base import Resolver
    from tes_server.store.base import Store

PAGE = 500
"""Verdicts that are read at once."""

SCANS_READ = 20
"""Pages of records of scans that are looked through for those under way, the newest first."""

SHOWN = 5
"""Images that are named as what may have been meant."""

_NONE = "`tes-server scan list` names all that there are"


PASSED, REFUSED, UNKNOWN = 0, 1, 2
"""Exit codes, by the policy alone, whatever the mode makes of it: the worst of all images counts."""

LONGER = 300.0
"""Seconds beyond `scan.timeout` that a verdict is waited for unless told otherwise: a scan waits for room as tasks do."""


class _Group(click.Group):
    """A word that is no command names an image, unless it is nearly one."""

    def resolve_command(self, context: click.Context, words: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        if not words or words[0] in self.commands:
            return super().resolve_command(context, words)
        if close := difflib.get_close_matches(words[0], self.commands, n=1, cutoff=0.65):
            raise errors.SettingsError(
                f"is no command of `tes-server scan`; did you mean {close[0]}? An image of this name: `tes-server scan image {words[0]}`", words[0]
            )
        return super().resolve_command(context, ["image", *words])


@click.group(
    cls=_Group,
    short_help="Scan an image; verdicts of image scans.",
    context_settings={"ignore_unknown_options": True},
    subcommand_metavar="IMAGE | COMMAND ...",
)
def scan() -> None:
    """Have an image scanned: `tes-server scan IMAGE`; and what scans said: a verdict for each repository, digest and policy, which tasks wait for."""


def _waits(command: Callable[..., Any]) -> Callable[..., Any]:
    """What the commands take that wait for verdicts."""
    options = (
        click.option("--backend", help="For tasks on this backend (default: the first of those whose images are scanned)."),
        click.option("--timeout", type=click.FloatRange(min=0), help=f"Seconds to wait for each verdict (default: scan.timeout and {LONGER:g} more)."),
        click.option("--json", "as_json", is_flag=True, help="As JSON, one verdict a line."),
    )
    for option in reversed(options):
        command = option(command)
    return command


@scan.command(short_help="Have images scanned (the word may be left out).")
@cli_options.site
@_waits
@click.argument("names", metavar="IMAGE...", nargs=-1, required=True)
def image(names: tuple[str, ...], **given: Any) -> None:
    """Show the verdicts about images; where there is none that holds, have the image scanned and wait.

    A running server scans it (or `tes-server reconcile`). Exit code 0: the site's policy takes it; 1: refuses it; 2: that cannot be told. In mode "warn"
    tasks run all the same.
    """
    _order(names, given, anew=False)


@scan.command(short_help="Have images scanned anew.")
@cli_options.site
@_waits
@click.argument("names", metavar="IMAGE...", nargs=-1, required=True)
def refresh(names: tuple[str, ...], **given: Any) -> None:
    """Take the verdicts about images back, and have them scanned anew. Tasks with these images wait for it. Exit codes as of `scan IMAGE`."""
    _order(names, given, anew=True)


def _order(names: Sequence[str], given: dict[str, Any], *, anew: bool) -> None:
    from tes_server import app, audit_rules, scan_rules
    from tes_server.control import orders

    settings = cli_options.settings(given)
    app.check(settings)
    tell = audit_rules.of_command(settings, app.clock)
    backend = _backend(settings, given["backend"])
    patience = settings.scan.timeout + LONGER if given["timeout"] is None else given["timeout"]
    worst = PASSED
    with _store(given) as store, _resolver(settings) as resolver:
        clocks = orders.Clocks(_now, time.monotonic)
        asked = orders.Orders(store, resolver, app.scanning(settings), lambda said: click.echo(scan_words.plain(f"      {said}"), err=True), clocks)
        try:
            for number, name in enumerate(names):
                if anew:
                    tell("scan.refresh", image=name, backend=backend)
                worst = max(worst, _answered(name, asked.ask(name, backend, patience, anew=anew), number, as_json=given["as_json"]))
            if worst > PASSED and not scan_rules.enforced(settings, backend):
                click.echo(f'tasks on {backend} run all the same: scan.mode is "warn" there', err=True)
        except KeyboardInterrupt:
            click.echo("stopped waiting; a scan that is begun goes on", err=True)
            worst = UNKNOWN
    sys.exit(worst)


@contextlib.contextmanager
def _resolver(settings: Settings) -> Iterator[Resolver]:
    from tes_server import app, machine

    made = app.resolver(machine.engine_settings(settings))
    if made is None:
        raise errors.SettingsError("is off: no images are scanned here", "scan.mode")
    with contextlib.closing(made) as resolver:
        yield resolver


def _answered(name: str, answer: Answer, number: int, *, as_json: bool) -> int:
    """Show an answer; its exit code."""
    from tes_server.scan import gate
    from tes_server.scan.policy import Entry

    if answer.verdict is not None:
        click.echo(msgspec.json.encode(answer.verdict).decode() if as_json else _apart(scan_words.block(answer.verdict, _now()), number))
        return {Outcome.PASS: PASSED, Outcome.FAIL: REFUSED}.get(answer.verdict.outcome, UNKNOWN)
    if answer.named is not None:
        click.echo(scan_words.plain(answer.named.reason), err=as_json)
        return PASSED if answer.named.entry is Entry.EXEMPT else REFUSED
    click.echo(scan_words.plain(f"tes-server: {name}: {gate.nameless(answer.failed, name)}"), err=True)
    return UNKNOWN


def _apart(block: str, number: int) -> str:
    return "\n" * (number > 0) + block


def _backend(settings: Settings, wanted: str | None) -> str:
    from tes_server import scan_rules

    scanned = scan_rules.scanned(settings)
    if scanned and wanted is not None and wanted not in scanned:
        raise errors.SettingsError(f"images are scanned for {', '.join(scanned)}, not for {wanted!r}", "--backend")
    return wanted or next(iter(scanned), "")


@scan.command("list", short_help="List the verdicts.")
@cli_options.place
@click.option("--outcome", type=click.Choice(["pass", "fail", "error", "forgotten"]), help="Only these.")
@click.option("--fresh", is_flag=True, help="Only those that still hold.")
@click.option("--json", "as_json", is_flag=True, help="As JSON, one object a line.")
def list_(outcome: str | None, fresh: bool, as_json: bool, **given: Any) -> None:
    """List the verdicts, in the order of digests. An image has one for each policy that judged it; forgotten ones are left out unless asked for."""
    now = _now()
    wanted = {Outcome(outcome.upper())} if outcome else set(Outcome) - {Outcome.FORGOTTEN}
    with _store(given) as store:
        found = (verdict for verdict in _all(store) if verdict.outcome in wanted and (verdict.fresh(now) or not fresh))
        if as_json:
            for verdict in found:
                click.echo(msgspec.json.encode(verdict).decode())
            return
        lines = scan_words.table(found, now)
        under_way = list(_under_way(store))
    click.echo("\n".join(lines))
    for record in under_way:
        click.echo(scan_words.under_way(record), err=True)


@scan.command(short_help="Show all that a verdict says.")
@cli_options.place
@click.argument("name", metavar="IMAGE|DIGEST|SCAN")
@click.option("--json", "as_json", is_flag=True, help="Verdicts as JSON, one a line.")
def show(name: str, as_json: bool, **given: Any) -> None:
    """Show the verdicts about an image: by the name under which it was first asked for, or by its digest (its first 12 digits do).

    Where a scan of it failed or is under way, its record follows, with what the scanner said last; by the scan's id that alone is shown.
    """
    from tes_server.scan import named

    now = _now()
    with _store(given) as store:
        if (one := _scan(store, name)) is not None:
            click.echo("\n".join(scan_words.record(one)))
            return
        under_way = [record for record in _under_way(store) if named.about(name, scan_words.scanned(record))]
        found = _named(store, [name], there=bool(under_way))
        blocks = [msgspec.json.encode(verdict).decode() if as_json else scan_words.block(verdict, now) for verdict in found]
        if not as_json:
            failed = [_scan(store, verdict.scan) for verdict in found if verdict.outcome is Outcome.ERROR]
            blocks += ["\n".join(scan_words.record(record)) for record in (*failed, *under_way) if record is not None]
    click.echo(("\n" if as_json else "\n\n").join(blocks))


def _scan(store: Store, scan: str) -> Record | None:
    """The record of a scan; None where there is none of that id, or not any more."""
    from tes_server.scan import named

    if not named.is_scan(scan):
        return None
    found = store.get(SCANS.scope, scan, View.FULL)
    return found if isinstance(found, Record) else None


def _under_way(store: Store) -> Iterator[Record]:
    """The scans that have not ended, the newest first."""
    after = None
    for _ in range(SCANS_READ):
        page = store.page(Query(scope=SCANS.scope, view=View.BASIC, after=after))
        yield from (record for record in page.tasks if isinstance(record, Record) and record.state not in ENDS)
        after = page.after
        if after is None:
            return


@scan.command(short_help="Take verdicts back.")
@cli_options.place
@click.argument("names", metavar="[IMAGE|DIGEST]...", nargs=-1)
@click.option("--all", "all_", is_flag=True, help="All of them, for instance after a scanner was found to be wrong.")
def forget(names: tuple[str, ...], all_: bool, **given: Any) -> None:
    """Take verdicts back, whatever they say: the next task with such an image waits for a new scan. Running tasks go on."""
    from tes_server import audit_rules

    if bool(names) == all_:
        raise errors.SettingsError("name images or digests, or give --all", "scan forget")
    tell = audit_rules.of_command(cli_options.settings(given), _now)
    with _store(given) as store:
        found = list(_all(store)) if all_ else _named(store, names)
        for verdict in found:
            if verdict.outcome is not Outcome.FORGOTTEN:
                store.keep(verdict.taken_back(_now()))
                tell("scan.forget", image=verdict.image, digest=verdict.key.digest, policy=verdict.key.policy, was=verdict.outcome.value)
                was = f"{verdict.outcome.value} of {scan_words.time(verdict.scanned_at)}"
                click.echo(scan_words.plain(f"{verdict.image}  {verdict.key.digest[: scan_words.DIGEST_SHOWN]}  {was} is forgotten"))


def _all(store: Store) -> Iterator[Verdict]:
    after = None
    while page := store.all_verdicts(after, PAGE):
        yield from page
        after = page[-1].key


def _named(store: Store, names: Collection[str], *, there: bool = False) -> list[Verdict]:
    """The verdicts that these names and digests mean. Raises `errors.SettingsError` for one that means none, unless something else is `there`."""
    from tes_server.scan import named

    kept = list(_all(store))
    by_name = {name: named.meant(name, kept) for name in dict.fromkeys(names)}
    for name, found in by_name.items():
        if not found and not there:
            others = ", ".join(named.alike(name, kept)[:SHOWN])
            raise errors.SettingsError(f"there is no verdict about it; {f'there is about {others}' if others else _NONE}", name)
    return list({verdict.key: verdict for found in by_name.values() for verdict in found}.values())


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


@contextlib.contextmanager
def _store(given: dict[str, Any]) -> Iterator[Store]:
    """The store of the settings, also while servers work on it."""
    from tes_server import app, telemetry

    settings = cli_options.settings(given)
    # What a server would log of verdicts is said here in words.
    telemetry.set_up_logging(given["log_level"] or "error")
    if app.store_url(settings).startswith("sqlite:") and not app.sqlite_file(settings).is_file():
        raise errors.SettingsError(f"there is no {app.sqlite_file(settings)}: it is made at the first start", "store.url")
    with contextlib.closing(app.store(settings)) as kept:
        try:
            yield kept
        except errors.Unavailable as cause:
            raise errors.Unavailable(f"{cause.public.partition(';')[0]}: {cause.why}" if cause.why else cause.public) from cause
