"""`tes-server scan`: the verdicts of image scans that the store holds: list, show, forget.

They work beside running servers, on the same store. Heavy imports stay inside the commands, as in `cli`. Must never judge:
that is the policy's.
"""

from __future__ import annotations

import contextlib
import datetime
import re
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any

import click
import msgspec

from tes_server import cli_options, errors
from tes_server.model.verdict import Outcome, Verdict

if TYPE_CHECKING:
    from tes_server.store.base import Store

PAGE = 500
"""Verdicts that are read at once."""

DIGEST_SHOWN = len("sha256:") + 12
"""Characters of a digest in a table."""

_DIGEST = re.compile(r"(?:sha256:)?([0-9a-f]{12,64})")
_NONE = "`tes-server scan list` names all that there are"


@click.group(short_help="Verdicts of image scans.")
def scan() -> None:
    """What scans said about images: a verdict for each digest and policy, which tasks with that image wait for."""


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
                click.echo(_json(verdict))
            return
        rows = [("OUTCOME", "IMAGE", "DIGEST", "POLICY", "SCANNED", "HOLDS", "FINDINGS")]
        rows += [
            (
                verdict.outcome.value,
                verdict.image,
                verdict.key.digest[:DIGEST_SHOWN],
                verdict.key.policy,
                _time(verdict.scanned_at),
                _left(verdict, now),
                _counts(verdict),
            )
            for verdict in found
        ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        click.echo(_plain("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()))


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
            click.echo(_json(verdict))
            continue
        click.echo("\n" * (number > 0) + "\n".join(map(_plain, _lines(verdict, now))))


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
                store.keep(forgotten(verdict, _now()))
                was = f"{verdict.outcome.value} of {_time(verdict.scanned_at)}"
                click.echo(_plain(f"{verdict.image}  {verdict.key.digest[:DIGEST_SHOWN]}  {was} is forgotten"))


def forgotten(verdict: Verdict, now: datetime.datetime) -> Verdict:
    """What is kept in the place of a verdict that is taken back: newer than it, whatever clock it was made by, so that the next scan is another one."""
    at = max(now, verdict.scanned_at + datetime.timedelta(milliseconds=1))
    return Verdict(key=verdict.key, outcome=Outcome.FORGOTTEN, image=verdict.image, scanner=verdict.scanner, scanned_at=at, expires_at=at)


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


def _lines(verdict: Verdict, now: datetime.datetime) -> Iterator[str]:
    yield f"image     {verdict.image}"
    yield f"digest    {verdict.key.digest}"
    yield f"policy    {verdict.key.policy}"
    yield f"outcome   {verdict.outcome.value}"
    yield f"scanned   {_time(verdict.scanned_at)}, holds {'until ' if verdict.fresh(now) else 'no more since '}{_time(verdict.expires_at)}"
    if verdict.outcome is Outcome.FORGOTTEN:
        return
    database = f", database {verdict.database}" if verdict.database else ""
    yield f"scanner   {verdict.scanner} {verdict.scanner_version}".rstrip() + database
    if verdict.counts:
        yield f"findings  {_counts(verdict)}"
    if verdict.message:
        yield f"failed    {verdict.message}"
    for reason in verdict.reasons:
        yield f"reason    {reason}"
    for finding in verdict.top:
        fixed = f", fixed in {finding.fixed}" if finding.fixed else ""
        about = "  ".join(text for text in (finding.title, finding.url) if text)
        yield f"          {finding.severity:<8}  {finding.id}  {finding.package} {finding.installed}{fixed}  {about}".rstrip()


def _counts(verdict: Verdict) -> str:
    return ", ".join(f"{number} {severity}" for severity, number in verdict.counts.items() if number)


def _left(verdict: Verdict, now: datetime.datetime) -> str:
    if not verdict.fresh(now):
        return "no more"
    hours, minutes = divmod(int((verdict.expires_at - now).total_seconds()) // 60, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"


def _time(moment: datetime.datetime) -> str:
    return f"{moment.astimezone(datetime.UTC):%Y-%m-%d %H:%M} UTC"


def _plain(text: str) -> str:
    """Names and titles are others' texts: what steers a terminal is left out."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def _json(verdict: Verdict) -> str:
    return msgspec.json.encode(verdict).decode()


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


@contextlib.contextmanager
def _store(given: dict[str, Any]) -> Iterator[Store]:
    """The store of the settings, also while servers work on it."""
    from tes_server import app, telemetry

    settings = cli_options.settings(given)
    telemetry.set_up_logging(settings.log.level)
    if app.store_url(settings).startswith("sqlite:") and not app.sqlite_file(settings).is_file():
        raise errors.SettingsError(f"there is no {app.sqlite_file(settings)}: it is made at the first start", "store.url")
    with contextlib.closing(app.store(settings)) as kept:
        try:
            yield kept
        except errors.Unavailable as cause:
            raise errors.Unavailable(f"{cause.public.partition(';')[0]}: {cause.why}" if cause.why else cause.public) from cause
