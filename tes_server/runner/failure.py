"""Why an attempt will not end well, and in which words. The same for an attempt that a runner walks through and for one that is a pod. Pure."""

from __future__ import annotations

import datetime

import msgspec

from tes_server import telemetry
from tes_server.errors import StagingError
from tes_server.filer.manifest import Collected
from tes_server.model.run import Reason, Report
from tes_server.plan.steps import Execute, Limits
from tes_server.runner.engine import Exit
from tes_server.telemetry import Code


class Failure(msgspec.Struct, frozen=True):
    """Why the attempt will not end well."""

    reason: Reason
    code: str
    message: str
    transient: bool = False


def of_staging(cause: StagingError) -> Failure:
    """An input or output could not be moved."""
    return Failure(Reason.STAGING, cause.code, cause.public, cause.transient)


def of_time(limits: Limits) -> Failure:
    """max_runtime is over."""
    return Failure(Reason.TIMEOUT, Code.TIMEOUT, f"stopped after max_runtime of {limits.max_runtime:g} s")


def from_outside(during: str) -> Failure:
    """TERM from the platform, which knows why: `classify` of its backend says it."""
    return Failure(Reason.LOST, Code.LOST, f"stopped from outside while {during}", transient=True)


def of_nothing(step: Execute) -> Failure:
    """An executor vanished."""
    return Failure(Reason.LOST, Code.LOST, f"executor {step.index} vanished without a record of its end")


def of_command(step: Execute, ram_bytes: int, ended: Exit) -> Failure:
    """The user's command ended with a code that is not 0."""
    what = f"executor {step.index} ({step.argv[0][:100]})"
    if ended.oom:
        return Failure(Reason.OOM, Code.OOM, f"{what} was killed: it used more than {ram_bytes / 1e9:g} GB of memory")
    if ended.code == 127:
        return Failure(Reason.EXIT, Code.COMMAND_NOT_FOUND, f"{what} could not be run: exit code {ended.code}")
    if ended.code == 126:
        return Failure(Reason.EXIT, Code.EXECUTOR_FAILED, f"{what} could not be run, or its stdin, stdout, stderr or workdir not be used: exit code 126")
    by = f" (signal {ended.signal})" if ended.signal else ""
    return Failure(Reason.EXIT, Code.EXECUTOR_FAILED, f"{what} ended with exit code {ended.code}{by}")


def report(found: Failure | None, began: datetime.datetime, now: datetime.datetime) -> Report:
    """The report of an attempt in which no executor was started."""
    if found is None:
        return Report(start_time=began, end_time=now)
    return Report(reason=found.reason, transient=found.transient, code=found.code, message=found.message, start_time=began, end_time=now)


def after_stage_out(collected: Collected, failure: Failure | None, *, ran: bool) -> tuple[Failure | None, tuple[str, ...]]:
    """What holds after the outputs were taken, and lines for system_logs. An earlier failure is never hidden by one of the transfer.

    `ran`: a command has ended.
    """
    notices = collected.notices
    if failure is not None and failure.reason is Reason.BACKEND and not ran:
        # That there is nothing of a command that was never run goes without saying.
        notices = tuple(notice for notice in notices if not notice.startswith(Code.OUTPUT_MISSING))
    if collected.error is None:
        return failure, notices
    if failure is None:
        return of_staging(collected.error), notices
    return failure, (*notices, telemetry.line(collected.error.code, collected.error.public))
