"""How one executor of a pod ended, and what that means for its attempt: the same whether stage-out read its record or tes-step told of it. Pure."""

from __future__ import annotations

import datetime

import msgspec

from tes_server.model.run import Reason
from tes_server.model.task import ExecutorLog
from tes_server.plan.steps import Execute, Limits
from tes_server.runner import failure
from tes_server.runner.engine import Exit
from tes_server.runner.failure import Failure
from tes_server.telemetry import Code


class Ending(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of an executor that was started. `ended` None: nobody wrote how it ended. The rest is as in `runner.records`."""

    stdout: str
    stderr: str
    start_time: datetime.datetime | None = None
    ended: Exit | None = None
    failed: bool = False
    cut: bool = False
    late: bool = False


def judge(executor: Execute, limits: Limits, seen: Ending) -> tuple[ExecutorLog | None, Failure | None]:
    """The log of an executor, None if its command was not run; and what is wrong, None if the next one may run. As tes-step decides (turn.c)."""
    log = ExecutorLog(start_time=seen.start_time, stdout=seen.stdout, stderr=seen.stderr)
    ended = seen.ended
    if ended is None:
        # With ignore_error the next one has run: what killed this one, only the platform can tell.
        return log, None if executor.ignore_error else failure.of_nothing(executor)
    log = msgspec.structs.replace(log, start_time=ended.start_time, end_time=ended.end_time, exit_code=ended.code)
    if seen.late:
        return log, failure.of_time(limits)
    if seen.cut and not ended.oom:
        return log, failure.from_outside(f"executor {executor.index} ran")
    if seen.failed:
        message = f"executor {executor.index} was not started: {seen.stderr.strip()}"
        return None, Failure(Reason.BACKEND, Code.ENGINE_ERROR, message, transient=True)
    if ended.code != 0 and not executor.ignore_error:
        return log, failure.of_command(executor, limits.ram_bytes, ended)
    return log, None
