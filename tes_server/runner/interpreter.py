"""Walks the steps of one attempt: STAGE_IN, every executor in order, STAGE_OUT, and a report at the end.

Resumable: all it knows is in the attempt's directory and in what the engine says of its cells, so that `run` may be
called again after any crash and goes on where the one before stopped. It must never run an executor twice, and never
decide a TES state: it reports.
"""

from __future__ import annotations

import datetime
import logging
import os
import pathlib
import threading
from collections.abc import Callable

import msgspec

from tes_server import errors, telemetry
from tes_server.filer import transfer
from tes_server.filer.manifest import Access, Collected
from tes_server.model import run
from tes_server.model.run import Phase, Reason, Report
from tes_server.model.task import ExecutorLog, OutputFileLog
from tes_server.plan.paths import below
from tes_server.plan.steps import MountKind, Plan
from tes_server.runner.attempt import Attempt, Staged
from tes_server.runner.engine import Cell, CellState, Engine, Exit
from tes_server.telemetry import Code

logger = logging.getLogger(__name__)

Clock = Callable[[], datetime.datetime]


class Site(msgspec.Struct, frozen=True, kw_only=True):
    """What every attempt on this machine shares: `grace` in seconds between TERM and KILL, bounds, file access."""

    access: Access
    live_roots: tuple[str, ...] = ()
    tail_bytes: int = 10240
    grace: float = 10.0
    labels: dict[str, str] = {}


class _Failure(msgspec.Struct, frozen=True):
    """Why the attempt will not end well."""

    reason: Reason
    code: str
    message: str
    transient: bool = False


class Interpreter:
    """One attempt. `run` in one thread; `stop`, `phase` and `logs` from any other. `changed` is called when the phase moves."""

    def __init__(self, attempt: Attempt, plan: Plan, engine: Engine, site: Site, clock: Clock, changed: Callable[[], None]) -> None:
        self.plan = plan
        self.phase = Phase.PENDING
        self.start_time: datetime.datetime | None = None
        self._attempt = attempt
        self._engine = engine
        self._site = site
        self._clock = clock
        self._changed = changed
        self._lock = threading.Lock()
        self._current: Cell | None = None
        self._halt: Reason | None = Reason.CANCELED if attempt.canceled else None
        self._exits: list[tuple[Cell, Exit]] = []
        self._notices: list[str] = []
        self._staged: Staged | None = None

    # -- from other threads -----------------------------------------------------------------------------------------

    def stop(self, reason: Reason = Reason.CANCELED) -> None:
        """End the attempt soon: nothing new is started, and the running executor gets TERM, after the grace KILL."""
        with self._lock:
            # A cancel beats a time-out; neither is taken back.
            if self._halt is not Reason.CANCELED:
                self._halt = reason
            cell = self._current
        if cell is not None:
            self._engine.stop(cell, self._site.grace)

    def logs(self) -> tuple[ExecutorLog, ...]:
        """Executor logs so far, the running one with its output up to now."""
        done = [self._log(cell, ended) for cell, ended in list(self._exits)]
        cell = self._current
        if cell is not None and len(done) == cell.step.index:
            out, err = self._engine.streams(cell)
            done.append(ExecutorLog(stdout=out, stderr=err))
        return tuple(done)

    # -- the attempt ------------------------------------------------------------------------------------------------

    def run(self) -> Report:
        """Run to the end and return the report, which is then durable. Never raises for what a task can do wrong."""
        report = self._attempt.report()
        if report is not None:
            self._move(Phase.ENDED)
            return report
        self.start_time = self._attempt.started(self._clock())
        timer = self._timer()
        try:
            failure = self._work()
        finally:
            if timer is not None:
                timer.cancel()
        outputs: tuple[OutputFileLog, ...] = ()
        if self._staged is not None and self._halt is not Reason.CANCELED:
            outputs, failure = self._stage_out(failure)
        if self._halt is Reason.CANCELED:
            failure = _Failure(Reason.CANCELED, Code.CANCELED, "stopped")
        report = Report(
            executors=tuple(self._log(cell, ended) for cell, ended in self._exits),
            outputs=outputs,
            reason=failure.reason if failure else None,
            transient=failure.transient if failure else False,
            code=failure.code if failure else "",
            message=failure.message if failure else "",
            notices=(*(self._staged.notices if self._staged else ()), *self._notices),
            start_time=self.start_time,
            end_time=self._clock(),
            images=self._staged.images if self._staged else {},
        )
        self._attempt.keep_report(report)
        self._move(Phase.ENDED)
        return report

    def _work(self) -> _Failure | None:
        """Stage in and execute; what went wrong, or None."""
        try:
            for mount in self.plan.mounts:
                if mount.kind is MountKind.LIVE:
                    self._check_live(mount.source)
            self._staged = self._attempt.staged()
            if self._staged is None:
                self._move(Phase.STAGING)
                images = self._prepare()
                notices = transfer.stage_in(self.plan.stage_in, self._attempt.volume, self._site.access, self._stopped)
                self._staged = Staged(images, notices)
                self._attempt.set_staged(self._staged)
            return self._execute(cells(self._attempt, self.plan, self._site))
        except errors.Canceled:
            return self._halted()
        except errors.StagingError as cause:
            return _Failure(Reason.STAGING, cause.code, cause.public, cause.transient)
        except errors.EngineError as cause:
            reason = Reason.IMAGE if cause.code.startswith("IMAGE_") else Reason.BACKEND
            return _Failure(reason, cause.code, cause.public, cause.transient)
        except OSError as cause:
            telemetry.log(logger, logging.ERROR, "runner.failed", attempt=self._attempt.name, error=str(cause))
            return _Failure(Reason.BACKEND, Code.ENGINE_ERROR, f"the runner failed: {os.strerror(cause.errno or 0)}", transient=True)

    def _prepare(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for image in dict.fromkeys(step.image for step in self.plan.executors):
            if self._stopped():
                raise errors.Canceled("stopped")
            found[image] = self._engine.prepare(image)
        return found

    def _execute(self, all_cells: list[Cell]) -> _Failure | None:
        for cell in all_cells:
            ended = self._attempt.exit(cell.step.index)
            if ended is None:
                if not self._start(cell):
                    return self._halted()
                self._move(Phase.RUNNING)
                ended = self._engine.wait(cell)
                if ended is None:
                    self._current = None
                    self._engine.remove(cell)
                    return _Failure(Reason.LOST, Code.LOST, f"executor {cell.step.index} vanished without a record of its end")
                self._attempt.keep_exit(cell.step.index, ended)
            self._exits.append((cell, ended))
            self._current = None
            self._engine.remove(cell)
            if self._halt is not None:
                return self._halted()
            if ended.code != 0 and not cell.step.ignore_error:
                return _failed(cell, ended)
        return None

    def _start(self, cell: Cell) -> bool:
        """Start or adopt the cell; False if the attempt is to stop and this cell has not begun."""
        with self._lock:
            if self._halt is not None and self._engine.state(cell) is CellState.ABSENT:
                return False
            cell.record.mkdir(exist_ok=True)
            self._engine.start(cell)
            self._current = cell
            stop = self._halt is not None
        if stop:
            self._engine.stop(cell, self._site.grace)
        return True

    def _stage_out(self, failure: _Failure | None) -> tuple[tuple[OutputFileLog, ...], _Failure | None]:
        """Take the outputs, after failures too; an earlier failure is never hidden by one of the transfer."""
        try:
            collected = transfer.stage_out(self.plan.stage_out, self._attempt.volume, self._site.access, self._canceled)
        except errors.Canceled:
            return (), failure
        except errors.StagingError as cause:
            collected = Collected(outputs=(), notices=(), error=cause)
        self._notices += collected.notices
        if collected.error is not None:
            if failure is None:
                return collected.outputs, _Failure(Reason.STAGING, collected.error.code, collected.error.public, collected.error.transient)
            self._notices.append(telemetry.line(collected.error.code, collected.error.public))
        return collected.outputs, failure

    # -- the parts --------------------------------------------------------------------------------------------------

    def _check_live(self, source: str) -> None:
        """A live mount is read-write: another task may have put a link there that leads out of the allowed directories."""
        real = os.path.realpath(source)
        if real != source or not any(below(real, root) for root in self._site.live_roots):
            raise errors.StagingError(f"{source} leads out of the directories that may be mounted live", Code.INPUT_DENIED)
        if not pathlib.Path(real).is_dir():
            raise errors.StagingError(f"{source} is not a directory on this machine", Code.INPUT_NOT_FOUND)

    def _timer(self) -> threading.Timer | None:
        if not self.plan.limits.max_runtime or self.start_time is None:
            return None
        left = self.plan.limits.max_runtime - (self._clock() - self.start_time).total_seconds()
        timer = threading.Timer(max(0.0, left), self.stop, [Reason.TIMEOUT])
        timer.daemon = True
        timer.start()
        return timer

    def _stopped(self) -> bool:
        return self._halt is not None

    def _canceled(self) -> bool:
        # A time-out still takes its outputs; only a cancel does without.
        return self._halt is Reason.CANCELED

    def _halted(self) -> _Failure:
        if self._halt is Reason.TIMEOUT:
            return _Failure(Reason.TIMEOUT, Code.TIMEOUT, f"stopped after max_runtime of {self.plan.limits.max_runtime:g} s")
        return _Failure(Reason.CANCELED, Code.CANCELED, "stopped")

    def _log(self, cell: Cell, ended: Exit) -> ExecutorLog:
        out, err = self._engine.streams(cell)
        return ExecutorLog(start_time=ended.start_time, end_time=ended.end_time, exit_code=ended.code, stdout=out, stderr=err)

    def _move(self, phase: Phase) -> None:
        if self.phase is not phase:
            self.phase = phase
            self._changed()


def cells(attempt: Attempt, plan: Plan, site: Site) -> list[Cell]:
    """The cells of an attempt, in order. Named after the plan, so that they are found wherever its directory was moved."""
    name = run.job_name(plan.task_id, plan.attempt)
    return [
        Cell(
            name=f"{name}-{step.index}",
            step=step,
            mounts=plan.mounts,
            limits=plan.limits,
            volume=attempt.volume,
            record=attempt.record(step.index),
            labels=site.labels,
            tail_bytes=site.tail_bytes,
        )
        for step in plan.executors
    ]


def _failed(cell: Cell, ended: Exit) -> _Failure:
    what = f"executor {cell.step.index} ({cell.step.argv[0][:100]})"
    if ended.oom:
        return _Failure(Reason.OOM, Code.OOM, f"{what} was killed: it used more than {cell.limits.ram_bytes / 1e9:g} GB of memory")
    if ended.code in (126, 127):
        return _Failure(Reason.EXIT, Code.COMMAND_NOT_FOUND, f"{what} could not be run: exit code {ended.code}")
    by = f" (signal {ended.signal})" if ended.signal else ""
    return _Failure(Reason.EXIT, Code.EXECUTOR_FAILED, f"{what} ended with exit code {ended.code}{by}")
