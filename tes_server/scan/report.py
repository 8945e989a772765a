"""What a scanner found in an image, in the same words for every scanner, and never larger than a record may hold.

Made by the adapters (`trivy`, `twistcli`, ...) where the scan ran, judged by `policy` wherever the verdict is wanted. Pure.
This module must never leave out anything unseen: what did not fit is counted, and a policy has to take it for the worst.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable

import msgspec

from tes_server import errors
from tes_server.model import image_names
from tes_server.model.verdict import Finding

SEVERITIES = ("CRITICAL", "HIGH", "MEDIUM", "LOW", "UNKNOWN")
"""All there are, the worst first. What a scanner says beside them becomes the nearest one (`severity`)."""

LARGEST = 200_000
"""Bytes of a report as JSON: it travels as an executor's log, into the store."""

_ROOM = 150_000
"""Bytes of these for the findings."""

_WORDS = {
    "CRITICAL": "CRITICAL", "URGENT": "CRITICAL",
    "HIGH": "HIGH", "IMPORTANT": "HIGH",
    "MEDIUM": "MEDIUM", "MODERATE": "MEDIUM",
    "LOW": "LOW", "MINOR": "LOW", "NEGLIGIBLE": "LOW", "UNIMPORTANT": "LOW",
}  # fmt: skip
"""Severities as scanners and distributions name them."""

_BOUNDS = {"id": 100, "package": 200, "installed": 100, "fixed": 100, "title": 200, "url": 300}
"""Characters of each text of a finding. All of it is from the image or from a database: a package may be called what it likes."""

_LINES = 20
"""Remarks of the scanner that are kept."""


class ScanReport(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One scan of one image, whatever the scanner. At most LARGEST bytes as JSON."""

    scanner: str
    scanner_version: str = ""
    database: str = ""
    """version or time of the scanner's database, in words"""
    database_time: datetime.datetime | None = None
    """when that database was made; None = the scanner does not tell"""
    target: str = ""
    """what the scanner says that it looked at"""
    digests: tuple[str, ...] = ()
    """`sha256:...` of the manifest that it looked at, by all names that the scanner knows; () = it does not tell. Another one's is another image's report"""
    os: str = ""
    end_of_life: bool | None = None
    """the system in the image is not cared for any more; None = the scanner does not tell"""
    created: datetime.datetime | None = None
    """when the image was made, as it says itself"""
    counts: dict[str, int] = {}
    """severity -> findings of it, all of them"""
    findings: tuple[Finding, ...] = ()
    """the worst first; of one severity, those that can be mended first"""
    cut: dict[str, int] = {}
    """severity -> findings that did not fit, beside `findings`"""
    cut_fixable: dict[str, int] = {}
    """those of `cut` that can be mended"""
    unlisted: dict[str, int] = {}
    """severity -> findings that the scanner counts and does not name, beside `findings` and `cut`: they may be anything, also what can be mended"""
    scanned: datetime.datetime | None = None
    """when the scanner looked at the image, where what it tells may be older than its answer"""
    refused: tuple[str, ...] = ()
    """a judgement of the scanner's own against the image (thresholds of a Prisma Console), one line each; a policy does not overrule it"""


def severity(word: str) -> str:
    """One of SEVERITIES for whatever a scanner calls it."""
    return _WORDS.get(word.strip().upper(), "UNKNOWN")


def fixable(finding: Finding) -> bool:
    """True if there is a version that mends it."""
    return bool(finding.fixed)


def order(finding: Finding) -> tuple[int, bool, str, str]:
    """Sorts the worst first."""
    return SEVERITIES.index(finding.severity), not fixable(finding), finding.id, finding.package


def bounded(report: ScanReport, findings: Iterable[Finding]) -> ScanReport:
    """`report` with these findings: each once, the worst first, as many as fit; counts of all."""
    seen: dict[tuple[str, ...], Finding] = {}
    for finding in findings:
        one = _trimmed(finding)
        # What two sources rate differently stays apart: the milder one must not hide the other.
        seen.setdefault((one.id, one.package, one.installed, one.severity, one.fixed), one)
    ordered = sorted(seen.values(), key=order)
    kept, left, room = [], ordered, _ROOM
    for number, finding in enumerate(ordered):
        room -= len(msgspec.json.encode(finding)) + 1
        if room < 0:
            left = ordered[number:]
            break
        kept.append(finding)
    else:
        left = []
    made = msgspec.structs.replace(
        report,
        scanner_version=_cut(report.scanner_version, 100),
        database=_cut(report.database, 200),
        target=_cut(report.target, 500),
        digests=tuple(filter(image_names.is_digest, report.digests))[:100],
        os=_cut(report.os, 200),
        counts=_count(ordered),
        findings=tuple(kept),
        cut=_count(left),
        cut_fixable=_count(filter(fixable, left)),
        refused=tuple(_cut(line, 500) for line in report.refused[:_LINES]),
    )
    assert len(msgspec.json.encode(made)) <= LARGEST, "the bounds of the parts add up to less"  # noqa: S101 - arithmetic, not input
    return made


def uncounted(found: ScanReport, told: dict[str, int]) -> ScanReport:
    """With what the scanner counted and did not list."""
    counts, unlisted = dict(found.counts), dict(found.unlisted)
    for word, count in told.items():
        name = severity(word)
        more = count - found.counts.get(name, 0)
        if word != "total" and more > 0:
            for numbers in (counts, unlisted):
                numbers[name] = numbers.get(name, 0) + more
    return msgspec.structs.replace(found, counts=counts, unlisted=unlisted)


def encode(report: ScanReport) -> str:
    """As it travels: one line of JSON."""
    return msgspec.json.encode(report).decode()


def decode(text: str | bytes) -> ScanReport:
    """The report that was encoded. `errors.ScanError`: it is none."""
    try:
        return msgspec.json.decode(text, type=ScanReport)
    except msgspec.MsgspecError as cause:
        raise errors.ScanError(f"the report of the scan was damaged on its way: {cause}") from cause


def _trimmed(finding: Finding) -> Finding:
    texts = {name: _cut(getattr(finding, name), bound) for name, bound in _BOUNDS.items()}
    return msgspec.structs.replace(finding, severity=severity(finding.severity), **texts)


def _cut(text: str, bound: int) -> str:
    """On one line, without signs that move a terminal's cursor, and no longer than `bound`."""
    line = " ".join("".join(sign if sign.isprintable() else " " for sign in text[: 4 * bound]).split())
    return line if len(line) <= bound else f"{line[: bound - 1]}…"


def _count(findings: Iterable[Finding]) -> dict[str, int]:
    found: dict[str, int] = {}
    for finding in findings:
        found[finding.severity] = found.get(finding.severity, 0) + 1
    return found
