"""Verdicts of image scans in words, for people at a terminal. Pure: `now` is an argument. Must never be read by a program.

Heavy imports stay inside functions, as in `cli`.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Iterator

from tes_server.model.record import Detail, Logs, Record
from tes_server.model.states import State
from tes_server.model.verdict import Outcome, Verdict

TAIL = 20
"""Lines that are shown of what a scanner said."""

DIGEST_SHOWN = len("sha256:") + 12
"""Characters of a digest in a table."""


def table(verdicts: Iterable[Verdict], now: datetime.datetime) -> list[str]:
    """Lines with one verdict each, under headings."""
    rows: list[tuple[str, ...]] = [("OUTCOME", "IMAGE", "DIGEST", "POLICY", "SCANNED", "HOLDS", "FINDINGS")]
    rows += [_row(verdict, now) for verdict in verdicts]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [plain("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()) for row in rows]


def _row(verdict: Verdict, now: datetime.datetime) -> tuple[str, ...]:
    return (
        verdict.outcome.value,
        verdict.image,
        verdict.key.digest[:DIGEST_SHOWN],
        verdict.key.policy,
        time(verdict.scanned_at),
        _left(verdict, now),
        _counts(verdict),
    )


def block(verdict: Verdict, now: datetime.datetime) -> str:
    """All that a verdict says."""
    return "\n".join(map(plain, _lines(verdict, now)))


def _lines(verdict: Verdict, now: datetime.datetime) -> Iterator[str]:
    yield f"image     {verdict.image}"
    yield f"digest    {verdict.key.digest}"
    yield f"policy    {verdict.key.policy}"
    yield f"outcome   {verdict.outcome.value}"
    if verdict.outcome is Outcome.FORGOTTEN:
        yield f"forgotten {time(verdict.scanned_at)}"
        return
    yield f"scanned   {time(verdict.scanned_at)}, holds {'until ' if verdict.fresh(now) else 'no more since '}{time(verdict.expires_at)}"
    database = f", database {verdict.database}" if verdict.database else ""
    yield f"scanner   {verdict.scanner} {verdict.scanner_version}".rstrip() + database
    if verdict.scan:
        yield f"scan      {verdict.scan}"
    if verdict.counts:
        taken = "; the site's policy counts none of them (fixable_only, severities, ignore)" if verdict.outcome is Outcome.PASS else ""
        yield f"findings  {_counts(verdict)}{taken}"
    if verdict.outcome is Outcome.ERROR:
        yield f"failed    {verdict.message}"
        if verdict.fresh(now):
            yield f"          that is kept until then; `tes-server scan refresh {verdict.image}` scans anew at once"
        return
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


def under_way(record: Record) -> str:
    """One line about a scan that has not ended."""
    waits = _waits(record)
    return plain(f"      the scan {record.id} of {scanned(record)} is {record.state} on {record.status.backend}{waits}")


def _waits(record: Record) -> str:
    from tes_server import telemetry

    return f" ({telemetry.message(record.status.waiting)})" if record.status.waiting else ""


def scanned(record: Record) -> str:
    """The image that a scan looks at, by its digest or a local engine's id."""
    from tes_server.scan.base import IMAGE_TAG

    return ((record.task and record.task.tags) or {}).get(IMAGE_TAG, "")


def record(record: Record) -> list[str]:
    """All that is known of a scan: how it went, and what the scanner said last."""
    return list(map(plain, _of_scan(record)))


def _of_scan(record: Record) -> Iterator[str]:
    status, logs, detail = record.status, record.logs or Logs(), record.detail or Detail()
    yield f"scan      {record.id}"
    yield f"of        {scanned(record)}"
    yield f"state     {record.state} on {status.backend}, attempt {status.attempt}{_waits(record)}"
    yield f"begun     {time(record.created)}" + (f", ended {time(status.end_time)}" if status.end_time else "")
    for said in detail.system_logs:
        yield f"log       {said}"
    for command in logs.executors:
        if command.exit_code is not None:
            yield f"exit code {command.exit_code}"
    for stdout, stderr in detail.streams:
        # What a scan that went well leaves as its output is its report, in our own words.
        for name, text in (("stdout", "" if record.state is State.COMPLETE else stdout), ("stderr", stderr)):
            lines = text.splitlines()[-TAIL:]
            yield from (f"{name if not number else '':<9} {line}" for number, line in enumerate(lines))


def time(moment: datetime.datetime) -> str:
    """To the minute."""
    return f"{moment.astimezone(datetime.UTC):%Y-%m-%d %H:%M} UTC"


def plain(text: str) -> str:
    """Names and titles are others' texts: what steers a terminal is left out."""
    return "".join(letter if letter.isprintable() else " " for letter in text)
