"""What a scanner found, in our own words: its raw report is read from the scan's volume once it has ended, and told as its stdout.

The one place that does so, for runners and pods alike. What it tells is bounded (`scan.report`), whatever the scanner wrote. This module must never
judge an image: `scan.policy` does.
"""

from __future__ import annotations

import errno
import os
import pathlib
import re
from collections.abc import Sequence

import msgspec

from tes_server import errors
from tes_server.filer import rooted
from tes_server.model.run import Reason
from tes_server.model.task import ExecutorLog
from tes_server.plan.steps import Findings
from tes_server.runner.failure import Failure
from tes_server.scan import report
from tes_server.scan.base import LARGEST_RAW
from tes_server.scan.report import ScanReport
from tes_server.scan.scanners import SCANNERS
from tes_server.telemetry import Code

_EXECUTOR = re.compile(r"^executor \d+ \(.*?\)")
"""How a failure names the command of a scan, which for whoever reads it is the scanner."""

_HINTS = {"server gave HTTP response to HTTPS client": "a registry without TLS is to be named by scan.registries, with an http:// url"}
"""What helps where a scanner says this: all that there are write Go's own words."""

LAST_WORDS = 500
"""Characters of what a scanner said last that become part of the reason why its scan failed."""


def settle(step: Findings | None, volume: pathlib.Path, logs: Sequence[ExecutorLog], found: Failure | None) -> tuple[tuple[ExecutorLog, ...], Failure | None]:
    """The logs and the failure of an attempt after its scan was read; as they are where it is none (`step` None)."""
    if step is None or not logs:
        return tuple(logs), found
    *before, last = logs
    if found is not None and (found.reason is not Reason.EXIT or last.exit_code not in SCANNERS[step.scanner].exits):
        return tuple(logs), _explained(msgspec.structs.replace(found, message=_EXECUTOR.sub(step.scanner, found.message)), last)
    try:
        words = report.encode(take(step, volume))
    except errors.StagingError as cause:
        return tuple(logs), Failure(Reason.STAGING, cause.code, cause.public)
    return (*before, msgspec.structs.replace(last, stdout=words)), None


def told(step: Findings, volume: pathlib.Path, log: ExecutorLog) -> ScanReport:
    """The report of a scanner that has ended as `log` says. StagingError SCAN_FAILED as in `take`, and for an exit code by which the scan failed."""
    if log.exit_code not in SCANNERS[step.scanner].exits:
        words = _last_words(log)
        raise _failed(f"{step.scanner} ended with exit code {log.exit_code}" + (f": {words}" if words else ""))
    return take(step, volume)


def take(step: Findings, volume: pathlib.Path) -> ScanReport:
    """The report below `volume`. StagingError SCAN_FAILED in words: none there, too large, or not what that scanner writes."""
    try:
        raw = _read(volume, step.path)
    except FileNotFoundError:
        raise _failed(f"{step.scanner} left no report") from None
    except OSError as cause:
        raise _failed(f"the report of {step.scanner} cannot be read: {os.strerror(cause.errno or errno.EIO)}") from cause
    if len(raw) > LARGEST_RAW:
        raise _failed(f"the report of {step.scanner} has more than {LARGEST_RAW // 10**6} MB")
    try:
        return SCANNERS[step.scanner].read(raw)
    except errors.ScanError as cause:
        raise _failed(cause.public) from None


def _read(volume: pathlib.Path, path: str) -> bytes:
    place = rooted.Realm(str(volume)).find(path)
    if not place.rest:
        raise IsADirectoryError(errno.EISDIR, "is a directory")
    with os.fdopen(rooted.open_file(place.folder, place.rest[0]), "rb") as file:
        return file.read(LARGEST_RAW + 1)


def _failed(words: str) -> errors.StagingError:
    return errors.StagingError(words, Code.SCAN_FAILED)


def _explained(found: Failure, log: ExecutorLog) -> Failure:
    """With what the scanner said: whoever reads the verdict has nothing else of it."""
    words = _last_words(log)
    return msgspec.structs.replace(found, message=f"{found.message}: {words}") if words and found.reason is Reason.EXIT else found


def _last_words(log: ExecutorLog) -> str:
    words = " ".join((log.stderr or log.stdout or "").split())
    hint = next((f" [{hint}]" for sign, hint in _HINTS.items() if sign in words), "")
    return words[-LAST_WORDS:] + hint
