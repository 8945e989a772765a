"""The site's policy: which images need no scan, which are refused by their name, and what a scan's report must not hold.

Pure: `now` is an argument. A verdict is about a digest, so nothing in it may come from the name but what is part of its key (`key`).
This module must never take what it does not know for good: findings that did not fit, a database or an image of unknown age.
"""

from __future__ import annotations

import datetime
import enum
import fnmatch
import hashlib
from collections.abc import Iterable

import msgspec

from tes_server import redaction
from tes_server.model.verdict import Finding, Outcome, ScanKey, Verdict
from tes_server.scan import patterns
from tes_server.scan.report import SEVERITIES, ScanReport, fixable

TOP = 10
"""Findings that a verdict names."""

FORM = 1
"""Counts changes of what `judge` makes of one report: verdicts of another form are not used."""


class Ignore(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Findings that the site has looked at and accepts for a while."""

    id: str
    """a finding's id, or a shell pattern of ids"""
    reason: str
    expires: datetime.date
    """the last day (UTC) on which it holds"""
    package: str = ""
    """shell pattern of the package's name; "" = any"""
    image: str = ""
    """pattern of images (`patterns`) for which it holds; "" = all"""


class Policy(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What an image must be like."""

    scanner: str
    setup: str = ""
    """the scanner's image, arguments and the like, in any words: what it said with others does not count"""
    severities: tuple[str, ...] = ("CRITICAL", "HIGH")
    """severities of which an image must hold none"""
    fixable_only: bool = False
    """findings that nothing mends yet do not count"""
    ignore: tuple[Ignore, ...] = ()
    end_of_life: bool = True
    """an image whose system is not cared for any more is refused"""
    max_age_days: float = 0.0
    """oldest image, by what it says of itself; 0 = any"""
    database_days: float = 0.0
    """oldest database that is believed; 0 = any"""
    verdict_seconds: float = 24 * 3600.0
    """how long a verdict holds"""
    error_seconds: float = 600.0
    """how long a failed scan is not tried again"""
    exempt: tuple[str, ...] = ()
    """patterns of images that need no scan"""
    allow: tuple[str, ...] = ()
    """patterns of images that may run; () = all"""
    deny: tuple[str, ...] = ()
    """patterns of images that may not"""
    pinned: bool = False
    """images must be named by their digest"""


class Entry(enum.StrEnum):
    """What is known of an image by its name alone."""

    EXEMPT = "EXEMPT"  #: it needs no scan
    REFUSED = "REFUSED"  #: it may not run, whatever a scan would say
    SCAN = "SCAN"  #: a verdict is needed


class Admission(msgspec.Struct, frozen=True):
    """What the policy says to a name, and why."""

    entry: Entry
    reason: str = ""


def admissible(image: str, policy: Policy) -> Admission:
    """What the name of an image settles. Denied comes before exempt, exempt before allowed."""
    if policy.deny and not patterns.readable(image):
        return Admission(Entry.REFUSED, f"image {image} is named in a way that the site's rules cannot read: name it as registry/repository[:tag][@sha256:...]")
    if denied := patterns.first(policy.deny, image):
        return Admission(Entry.REFUSED, f"image {image} is denied by the site ({denied}): use one from elsewhere")
    if exempt := patterns.first(policy.exempt, image):
        return Admission(Entry.EXEMPT, f"image {image} is exempt from scans ({exempt})")
    if policy.allow and not patterns.first(policy.allow, image):
        return Admission(Entry.REFUSED, f"image {image} is not from where the site takes images ({', '.join(policy.allow)}): use one from there")
    if policy.pinned and not patterns.pinned(image):
        return Admission(Entry.REFUSED, f"image {image} is not named by a digest: name it as repository@sha256:..., so that what is scanned is what runs")
    return Admission(Entry.SCAN)


def key(digest: str, image: str, policy: Policy) -> ScanKey:
    """Of what the verdict about an image is: names of one repository that the policy treats alike share one.

    Not those of others: whoever has a registry could have the scan of an image that others use fail there.
    """
    return ScanKey(digest=digest, policy=fingerprint(narrowed(policy, image), patterns.repository(image)))


def narrowed(policy: Policy, image: str) -> Policy:
    """What of the policy judges a report about this image: without the rules about names."""
    held = tuple(msgspec.structs.replace(one, image="") for one in policy.ignore if not one.image or patterns.matches(one.image, image))
    return msgspec.structs.replace(policy, ignore=held, exempt=(), allow=(), deny=(), pinned=False)


def fingerprint(policy: Policy, repository: str = "") -> str:
    """16 hex digits of all that the policy says of images of a repository."""
    # In the text of an ignored finding the reason is for people; another wording must not scan the world anew.
    plain = msgspec.structs.replace(policy, ignore=tuple(sorted((msgspec.structs.replace(one, reason="") for one in policy.ignore), key=_sorting)))
    return hashlib.sha256(f"{FORM} {repository} ".encode() + msgspec.json.encode(plain, order="deterministic")).hexdigest()[:16]


def judge(report: ScanReport, policy: Policy, about: ScanKey, image: str, now: datetime.datetime) -> Verdict:
    """What the policy says of a report about the image of `about`, first asked for as `image`. Never PASS for what cannot be known."""
    if unknown := _disbelieved(report, policy, about, now):
        return failed(about, image, policy, unknown, now, report)
    rules = narrowed(policy, image)
    blocking, ends = _blocking(report, rules, now)
    lines = [*_lines(report, rules, blocking), *_about_image(report, rules, now), *(f"{report.scanner}: {line}" for line in report.refused)]
    until = min(report.scanned or now, now) + datetime.timedelta(seconds=policy.verdict_seconds)
    if not lines:
        until = min(until, ends, _too_old(report, rules) or until)
    return _verdict(about, image, report, now, until, Outcome.FAIL if lines else Outcome.PASS, tuple(lines), tuple((blocking or report.findings)[:TOP]))


def failed(about: ScanKey, image: str, policy: Policy, message: str, now: datetime.datetime, report: ScanReport | None = None) -> Verdict:
    """The verdict of a scan that failed: nothing is known, for a short while. `message` may be a scanner's own words, with urls in them."""
    message = redaction.text(message)
    made = _verdict(about, image, report or ScanReport(scanner=policy.scanner), now, now + datetime.timedelta(seconds=policy.error_seconds), Outcome.ERROR)
    return msgspec.structs.replace(made, message=message, reasons=(f"image {image} could not be scanned: {message}",))


def _verdict(
    about: ScanKey,
    image: str,
    report: ScanReport,
    now: datetime.datetime,
    until: datetime.datetime,
    outcome: Outcome,
    reasons: tuple[str, ...] = (),
    top: tuple[Finding, ...] = (),
) -> Verdict:
    return Verdict(
        key=about,
        outcome=outcome,
        image=image,
        scanner=report.scanner,
        scanner_version=report.scanner_version,
        database=report.database,
        scanned_at=now,
        expires_at=until,
        counts=dict(report.counts),
        reasons=reasons,
        top=top,
    )


def _disbelieved(report: ScanReport, policy: Policy, about: ScanKey, now: datetime.datetime) -> str:
    """Why a report says nothing; "" if it does."""
    if report.digests and about.digest not in report.digests:
        return f"{report.scanner} looked at another image, {report.digests[0]} in place of {about.digest}"
    if report.scanned is not None and (now - report.scanned).total_seconds() >= policy.verdict_seconds:
        hours = (now - report.scanned) / datetime.timedelta(hours=1)
        holds = f"a verdict holds for {policy.verdict_seconds / 3600:g} (scan.verdict_hours)"
        return f"what {report.scanner} tells is from a look {hours:.0f} hours ago, and {holds}: have it look at the image again"
    if not policy.database_days:
        return ""
    made = report.database_time
    if made is None:
        return f"{report.scanner} does not tell how old its database is, and the site believes none older than {policy.database_days:g} days"
    age = (now - made) / datetime.timedelta(days=1)
    if age > policy.database_days:
        return f"the database of {report.scanner} is {age:.1f} days old, and the site believes none older than {policy.database_days:g}: let it be updated"
    return ""


def _blocking(report: ScanReport, rules: Policy, now: datetime.datetime) -> tuple[list[Finding], datetime.datetime]:
    """Findings against the image, and when the first of the exceptions that were used ends."""
    found, ends = [], datetime.datetime.max.replace(tzinfo=datetime.UTC)
    for finding in report.findings:
        if finding.severity not in rules.severities or (rules.fixable_only and not fixable(finding)):
            continue
        held = [_end(one) for one in rules.ignore if now < _end(one) and _ignores(one, finding)]
        if held:
            ends = min(ends, max(held))
        else:
            found.append(finding)
    return found, ends


def _lines(report: ScanReport, rules: Policy, blocking: Iterable[Finding]) -> list[str]:
    """One line for each severity that the image holds too much of."""
    lines = []
    found = list(blocking)
    for severity in (severity for severity in SEVERITIES if severity in rules.severities):
        alike = [finding for finding in found if finding.severity == severity]
        cut = (report.cut_fixable if rules.fixable_only else report.cut).get(severity, 0)
        unlisted = report.unlisted.get(severity, 0)
        number = len(alike) + cut + unlisted
        if not number:
            continue
        mended = sum(map(fixable, alike)) + report.cut_fixable.get(severity, 0)
        told = [f"{mended} with a fix"]
        if cut:
            told.append(f"{cut} beyond the {len(report.findings)} that a report holds")
        if unlisted:
            told.append(f"{unlisted} that {report.scanner} counts and does not name")
        lines.append(f"{number} {severity} finding{'s' if number > 1 else ''} ({', '.join(told)}): {_remedy(mended, unlisted)}")
    return lines


def _remedy(mended: int, unlisted: int) -> str:
    if mended:
        return "rebuild the image with the fixed versions"
    if unlisted:
        return "look at the image with the scanner itself"
    return "no fixed version is known yet: choose another base, or have the site accept them"


def _about_image(report: ScanReport, rules: Policy, now: datetime.datetime) -> list[str]:
    """What is wrong with the image as a whole."""
    lines = []
    if rules.end_of_life and report.end_of_life:
        lines.append(f"its system {report.os or ''} is at its end of life and gets no fixes any more: use a newer base".replace("  ", " "))
    if rules.max_age_days:
        old = _too_old(report, rules)
        if old is None:
            lines.append(f"it does not tell when it was made, and the site takes none older than {rules.max_age_days:g} days: build it with a date")
        elif now >= old:
            age = (old - now) / datetime.timedelta(days=-1) + rules.max_age_days
            lines.append(f"it is {age:.0f} days old, and the site takes none older than {rules.max_age_days:g} days: rebuild it")
    return lines


def _too_old(report: ScanReport, rules: Policy) -> datetime.datetime | None:
    """When the image is too old; None where that cannot be told, or does not matter."""
    if not rules.max_age_days or report.created is None:
        return None
    return report.created + datetime.timedelta(days=rules.max_age_days)


def _ignores(one: Ignore, finding: Finding) -> bool:
    return fnmatch.fnmatchcase(finding.id, one.id) and (not one.package or fnmatch.fnmatchcase(finding.package, one.package))


def _end(one: Ignore) -> datetime.datetime:
    """The moment from which it does not hold any more."""
    return datetime.datetime.combine(one.expires, datetime.time.min, datetime.UTC) + datetime.timedelta(days=1)


def _sorting(one: Ignore) -> tuple[str, str, str, str]:
    return one.id, one.package, one.image, one.expires.isoformat()
