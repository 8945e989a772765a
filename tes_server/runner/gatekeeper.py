"""Whether a task may begin, by what a scanner that ran first in it has left about one of its images. The same for runners and pods.

The policy travels in the plan (`steps.Gate`). This module must never start anything, nor let an image pass that it knows nothing about, unless the site
says so (`on_error`).
"""

from __future__ import annotations

import datetime
import pathlib

from tes_server import errors, telemetry
from tes_server.model.run import Reason
from tes_server.model.task import ExecutorLog
from tes_server.model.verdict import Outcome
from tes_server.plan.steps import Check, Gate
from tes_server.runner import findings
from tes_server.runner.engine import Exit
from tes_server.runner.failure import Failure
from tes_server.scan import gate as gates
from tes_server.scan import policy
from tes_server.scan.gate import Door, Mode
from tes_server.telemetry import Code


def untold(ended: Exit | None) -> str:
    """Why there is nothing to be read of a scanner that ended so (None = nobody knows how), in words; "" = it has ended by itself."""
    if ended is None:
        return "its scanner vanished without a record of its end"
    return "its scanner was killed: it used more memory than it has" if ended.oom and ended.code else ""


def ruling(gate: Gate, check: Check, volume: pathlib.Path, log: ExecutorLog, now: datetime.datetime, why: str = "") -> tuple[Failure | None, tuple[str, ...]]:
    """What ends the attempt, None if it may go on; and lines for system_logs.

    `log`: of the scanner, with its exit code. `why`: in words, why there is nothing to be read of it; "" = it has ended by itself.
    """
    about = policy.key(check.digest, check.image, gate.policy)
    try:
        if why:
            raise errors.StagingError(why, Code.SCAN_FAILED)
        verdict = policy.judge(findings.told(check.findings, volume, log), gate.policy, about, check.image, now)
    except errors.StagingError as cause:
        verdict = policy.failed(about, check.image, gate.policy, cause.public, now)
    decided = gates.decide(Mode.ENFORCE, gate.on_error, verdict, now)
    if verdict.outcome is Outcome.PASS:
        return None, (telemetry.line(Code.SCANNED, gates.passed(verdict, check.image)),)
    if decided.door is Door.OPEN:
        return None, tuple(telemetry.line(Code.SCAN_WARNING, reason) for reason in decided.reasons)
    first, *others = decided.reasons
    if verdict.outcome is Outcome.ERROR:  # another scan may do better
        return Failure(Reason.BACKEND, Code.SCAN_FAILED, first, transient=True), ()
    return Failure(Reason.REJECTED, Code.SCAN_REFUSED, first), tuple(f"{Code.SCAN_REFUSED}: {reason}" for reason in others)
