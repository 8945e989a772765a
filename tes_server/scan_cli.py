"""`tes-server scan`: have an image scanned and see the verdict; list, show, forget, refresh verdicts.

They work beside running servers, on the same store; it is those that run the scans. Heavy imports stay inside the commands,
as in `cli`. Must never judge: that is the policy's.
"""

from __future__ import annotations

import contextlib
import datetime
import re
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click
import msgspec

from tes_server import cli_options, errors, scan_words
from tes_server.model.verdict import Outcome, Verdict
from tes_server.settings import Settings

if TYPE_CHECKING:
    from tes_server.control.orders import Answer
    from tes_server.digests.base import Resolver
    from tes_server.store.base import Store

PAGE = 500
"""Verdicts that are read at once."""

_DIGEST = re.compile(r"(?:sha256:)?([0-9a-f]{12,64})")
_NONE = "`tes-server scan list` names all that there are"


PASSED, REFUSED, UNKNOWN = 0, 1, 2
"""Exit codes: the worst of all images counts."""

LONGER = 300.0
"""Seconds beyond `scan.timeout` that a verdict is waited for unless told otherwise: a scan waits for room as tasks do."""


class _Group(click.Group):
    """A word that is no command names an image."""

    def resolve_command(self, context: click.Context, words: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        known = not words or words[0] in self.commands
        return super().resolve_command(context, words if known else ["image", *words])


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

    A running server scans it (or `tes-server reconcile`). Exit code 0: it may run; 1: the site's policy refuses it; 2: that cannot be told.
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
    from tes_server import app
    from tes_server.control import orders

    settings = cli_options.settings(given)
    app.check(settings)
    backend = _backend(settings, given["backend"])
    patience = settings.scan.timeout + LONGER if given["timeout"] is None else given["timeout"]
    worst = PASSED
    with _store(given) as store, _resolver(settings) as resolver:
        clocks = orders.Clocks(_now, time.monotonic)
        asked = orders.Orders(store, resolver, app.scanning(settings), lambda said: click.echo(scan_words.plain(f"      {said}"), err=True), clocks)
        try:
            for number, name in enumerate(names):
                worst = max(worst, _answered(name, asked.ask(name, backend, patience, anew=anew), number, as_json=given["as_json"]))
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
    from tes_server.scan.policy import Entry

    if answer.verdict is not None:
        click.echo(msgspec.json.encode(answer.verdict).decode() if as_json else scan_words.block(answer.verdict, _now(), number))
        return {Outcome.PASS: PASSED, Outcome.FAIL: REFUSED}.get(answer.verdict.outcome, UNKNOWN)
    if answer.named is not None:
        click.echo(scan_words.plain(answer.named.reason), err=as_json)
        return PASSED if answer.named.entry is Entry.EXEMPT else REFUSED
    click.echo(scan_words.plain(f"tes-server: {name}: {answer.failed}"), err=True)
    return UNKNOWN


def _backend(settings: Settings, named: str | None) -> str:
    from tes_server import scan_rules

    scanned = scan_rules.scanned(settings)
    if scanned and named is not None and named not in scanned:
        raise errors.SettingsError(f"images are scanned for {', '.join(scanned)}, not for {named!r}", "--backend")
    return named or next(iter(scanned), "")


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
    click.echo("\n".join(lines))


@scan.command(short_help="Show all that a verdict says.")
@cli_options.place
@click.argument("name", metavar="IMAGE|DIGEST")
@click.option("--json", "as_json", is_flag=True, help="As JSON, one object a line.")
def show(name: str, as_json: bool, **given: Any) -> None:
    """Show the verdicts about an image: by the name under which it was first asked for, or by its digest (its first 12 digits do)."""
    now = _now()
    with _store(given) as store:
        found = _named(store, [name])
    for number, verdict in enumerate(found):
        if as_json:
            click.echo(msgspec.json.encode(verdict).decode())
            continue
        click.echo(scan_words.block(verdict, now, number))


@scan.command(short_help="Take verdicts back.")
@cli_options.place
@click.argument("names", metavar="[IMAGE|DIGEST]...", nargs=-1)
@click.option("--all", "all_", is_flag=True, help="All of them, for instance after a scanner was found to be wrong.")
def forget(names: tuple[str, ...], all_: bool, **given: Any) -> None:
    """Take verdicts back, whatever they say: the next task with such an image waits for a new scan. Running tasks go on."""
    if bool(names) == all_:
        raise errors.SettingsError("name images or digests, or give --all", "scan forget")
    with _store(given) as store:
        found = list(_all(store)) if all_ else _named(store, names)
        for verdict in found:
            if verdict.outcome is not Outcome.FORGOTTEN:
                store.keep(verdict.taken_back(_now()))
                was = f"{verdict.outcome.value} of {scan_words.time(verdict.scanned_at)}"
                click.echo(scan_words.plain(f"{verdict.image}  {verdict.key.digest[: scan_words.DIGEST_SHOWN]}  {was} is forgotten"))


def _all(store: Store) -> Iterator[Verdict]:
    after = None
    while page := store.all_verdicts(after, PAGE):
        yield from page
        after = page[-1].key


def _named(store: Store, names: Collection[str]) -> list[Verdict]:
    """The verdicts that these names and digests mean. Raises `errors.SettingsError` for one that means none."""
    by_name = {name: [verdict for verdict in _all(store) if _means(name, verdict)] for name in dict.fromkeys(names)}
    for name, found in by_name.items():
        if not found:
            raise errors.SettingsError(f"there is no verdict about it; {_NONE}", name)
    return list({verdict.key: verdict for found in by_name.values() for verdict in found}.values())


def _means(name: str, verdict: Verdict) -> bool:
    digits = _DIGEST.fullmatch(name)
    if digits and verdict.key.digest.removeprefix("sha256:").startswith(digits[1]):
        return True
    return name == verdict.image or _whole(name) in (_whole(verdict.image), f"{_repository(verdict.image)}@{verdict.key.digest}")


def _whole(name: str) -> str:
    """The name with all that it leaves out, so that `debian` is `docker.io/library/debian:latest`."""
    from tes_server.model import image_names

    try:
        return str(image_names.parse(name))
    except errors.EngineError:  # an image of a local engine alone
        return name


def _repository(name: str) -> str:
    return _whole(name).partition("@")[0].rpartition(":")[0] or name


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
