"""Verdicts of image scans in words, for people at a terminal. Pure: `now` is an argument. Must never be read by a program."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Iterator

from tes_server.model.verdict import Outcome, Verdict

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


def block(verdict: Verdict, now: datetime.datetime, number: int) -> str:
    """All that a verdict says; apart from the one before."""
    return "\n" * (number > 0) + "\n".join(map(plain, _lines(verdict, now)))


def _lines(verdict: Verdict, now: datetime.datetime) -> Iterator[str]:
    yield f"image     {verdict.image}"
    yield f"digest    {verdict.key.digest}"
    yield f"policy    {verdict.key.policy}"
    yield f"outcome   {verdict.outcome.value}"
    yield f"scanned   {time(verdict.scanned_at)}, holds {'until ' if verdict.fresh(now) else 'no more since '}{time(verdict.expires_at)}"
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


def time(moment: datetime.datetime) -> str:
    """To the minute."""
    return f"{moment.astimezone(datetime.UTC):%Y-%m-%d %H:%M} UTC"


def plain(text: str) -> str:
    """Names and titles are others' texts: what steers a terminal is left out."""
    return "".join(letter if letter.isprintable() else " " for letter in text)
