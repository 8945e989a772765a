"""The scans that come first in a task's pod: the volume that their containers share with nobody of the task's, and what stage-in makes of their reports.

A scanner that fails ends its pod by its exit code, and `classify` of the backend says so; what reaches stage-in is judged by `gatekeeper`. This module
must never trust what a scanner's container can write: records are read by `records`, reports by `findings`.
"""

from __future__ import annotations

import datetime
import os
import pathlib
import posixpath
import shutil

from tes_server import errors, step
from tes_server.model.task import ExecutorLog
from tes_server.plan.steps import Plan
from tes_server.runner import gatekeeper, pod, records
from tes_server.runner.failure import Failure
from tes_server.scan.base import REPORT


def prepare(volume: pathlib.Path, scans: int) -> int:
    """tes-step for the scanners, and for each a record and a directory that it may write to, whoever its user is. The exit code."""
    umask = os.umask(0)
    try:
        binaries = volume / pod.BIN
        binaries.mkdir(mode=0o755, exist_ok=True)
        shutil.copyfile(step.path(), binaries / "tes-step")
        (binaries / "tes-step").chmod(0o755)
        for number in range(scans):
            for place in (pod.scan_record(number), pod.scan_files(number) + posixpath.dirname(REPORT)):
                (volume / place).mkdir(mode=0o777, parents=True, exist_ok=True)
    finally:
        os.umask(umask)
    return 0


def judged(plan: Plan, volume: pathlib.Path, tail_bytes: int, now: datetime.datetime) -> tuple[Failure | None, tuple[str, ...]]:
    """What ends the attempt before it has begun, None if nothing does; and lines for system_logs."""
    lines: tuple[str, ...] = ()
    if plan.gate is None:
        return None, lines
    for number, check in enumerate(plan.gate.checks):
        log, why = _read(volume / pod.scan_record(number), tail_bytes)
        found, more = gatekeeper.ruling(plan.gate, check, volume / pod.scan_files(number), log, now, why)
        lines += more
        if found is not None:
            return found, lines
    return None, lines


def _read(record: pathlib.Path, tail_bytes: int) -> tuple[ExecutorLog, str]:
    """How a scanner ended, or why nobody knows."""
    try:
        ended = records.ended(record)
        if ended is None:
            return ExecutorLog(), "its scanner left no record of its end"
        out, err = records.streams(record, tail_bytes)
        why = "its scanner was given up" if records.late(record) else ""
    except errors.EngineError as cause:
        return ExecutorLog(), cause.public
    return ExecutorLog(exit_code=ended.code, stdout=out, stderr=err), why
