"""Walks the steps of one attempt: STAGE_IN, every executor in order, STAGE_OUT, and a report at the end.

Resumable: all it knows is in the attempt's directory and in what the engine says of its cells, so that `run` may be
called again after any crash and goes on where the one before stopped. It must never run an executor twice, and never
decide a TES state: it reports.
"""

from __future__ import annotations

import contextlib
import datetime
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator

import msgspec

from tes_server import errors, telemetry
from tes_server.filer import transfer, wording
from tes_server.filer.manifest import Collected
from tes_server.filer.progress import Direction, Progress
from tes_server.model.run import Phase, Reason, Report
from tes_server.model.task import ExecutorLog, OutputFileLog
from tes_server.plan.steps import Check, Plan
from tes_server.runner import failure, findings, gatekeeper, records, site, vault
from tes_server.runner.attempt import Attempt, Staged, boot_id
from tes_server.runner.engine import Cell, CellState, Engine, Exit
from tes_server.runner.failure import Failure
from tes_server.runner.halt import Halt
from tes_server.runner.reach import Reach
from tes_server.runner.site import Site
from tes_server.runner.vault import Vault
from tes_server.telemetry import Code

logger = logging.getLogger(__name__)

Clock = Callable[[], datetime.datetime]


FULL_BYTES = 1 << 20
"""Free bytes of a disk that counts as full."""

FULL_PAUSE = 1.0
"""Seconds between two tries to write a report to a disk that is full."""


class Interpreter:
    """One attempt. `run` in one thread; `stop`, `phase` and `logs` from any other. `changed` is called when the phase moves."""

    def __init__(self, attempt: Attempt, plan: Plan, engine: Engine, shared: Site, clock: Clock, changed: Callable[[], None]) -> None:
        self.plan = plan
        self.phase = Phase.PENDING
        self.start_time: datetime.datetime | None = None
        self._attempt = attempt
        self._engine = engine
        self._site = shared
        self._clock = clock
        self._changed = changed
        self._current: Cell | None = None
        self._halt = Halt(Reason.CANCELED if attempt.canceled else None)
        self._reach = Reach(changed)
        self._stopper: threading.Thread | None = None
        self._timer: threading.Timer | None = None
        self._exits: list[tuple[Cell, Exit]] = []
        self._notices: list[str] = []
        self._staged: Staged | None = None
        self._progress: Progress | None = None
        self._vault = site.vault_of(plan, shared)
        self._removed: set[str] = set()

    # -- from other threads -----------------------------------------------------------------------------------------

    @property
    def silence(self) -> str:
        """Why the engine cannot be asked at the moment, "" if it can."""
        return self._reach.silence

    @property
    def transfer(self) -> str:
        """How far a long transfer is that is under way, "" if none is."""
        progress = self._progress
        return progress.words() if progress else ""

    def stop(self, reason: Reason = Reason.CANCELED) -> None:
        """End the attempt soon: nothing new is started, and the running executor gets TERM, after the grace KILL. Never waits.

        LOST: the platform ends this process, and says why; nothing of the attempt may go on without it.
        """
        self._halt.wish(reason)
        cell = self._current
        if cell is not None and (self._stopper is None or not self._stopper.is_alive()):
            # The engine may not answer for a while, and whoever stops one attempt has others to look after.
            self._stopper = threading.Thread(target=self._stop, args=(cell,), name=f"{cell.name}-stop", daemon=True)
            self._stopper.start()

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
        try:
            found = self._work()
        finally:
            if self._timer is not None:
                self._timer.cancel()
        outputs: tuple[OutputFileLog, ...] = ()
        logs = tuple(self._log(cell, ended) for cell, ended in self._exits)
        if self._staged is not None and not self._abandoned():
            outputs, found = self._stage_out(found)
            logs, found = findings.settle(self.plan.stage_out.findings, self._attempt.volume, logs, found)
        if self._abandoned():
            found = self._halted()
        report = Report(
            executors=logs,
            outputs=outputs,
            reason=found.reason if found else None,
            transient=found.transient if found else False,
            code=found.code if found else "",
            message=found.message if found else "",
            notices=(*(self._staged.notices if self._staged else ()), *self._notices),
            start_time=self.start_time,
            end_time=self._clock(),
            images=self._staged.images if self._staged else {},
        )
        self._publish(report)
        if all(cell.name in self._removed for cell in site.all_cells(self._attempt, self.plan, self._site) if cell.record.exists()):
            self._attempt.set_clean()
        self._move(Phase.ENDED)
        return report

    def _publish(self, report: Report) -> None:
        """Late is better than lost, where the disk is full: most likely of the task's own files, which nobody needs any more."""
        while True:
            try:
                return self._attempt.keep_report(report)
            except OSError as cause:
                if cause.errno not in wording.FULL:
                    raise
                telemetry.log(logger, logging.ERROR, "runner.report.late", attempt=self._attempt.name, error=str(cause))
            self._reach(lambda: self._engine.wipe(self._attempt.volume), stubborn=True)
            time.sleep(FULL_PAUSE)

    def _work(self) -> Failure | None:
        """Stage in and execute; what went wrong, or None."""
        try:
            self.start_time = self._attempt.started(self._clock())
            self._start_timer()
            all_cells = site.cells(self._attempt, self.plan, self._site)
            self._staged = self._attempt.staged()
            if self._staged is not None and self._staged.boot != boot_id():
                self._staged = None
                if self._begun(all_cells[0]):
                    return self._lost_with_the_machine(all_cells)
            if self._staged is None:
                refused, lines = self._pass_gate()
                if refused is not None:
                    self._notices += lines
                    return refused
                self._staged = self._stage_in(lines)
            return self._execute([msgspec.structs.replace(cell, image=self._staged.images[cell.step.shown_image]) for cell in all_cells])
        except errors.Canceled:
            return self._halted()
        except errors.StagingError as cause:
            return failure.of_staging(cause)
        except errors.EngineError as cause:
            reason = Reason.IMAGE if cause.code.startswith("IMAGE_") else Reason.BACKEND
            # On a full disk engines and supervisors fail in ways, and without words, that do not tell it.
            full = cause.code == Code.ENGINE_ERROR and shutil.disk_usage(self._attempt.directory).free < FULL_BYTES
            code = Code.DISK_FULL if full else cause.code
            return Failure(reason, code, cause.public, cause.transient and not self._fills(code))
        except OSError as cause:
            telemetry.log(logger, logging.ERROR, "runner.failed", attempt=self._attempt.name, error=str(cause))
            code = Code.DISK_FULL if cause.errno in wording.FULL else Code.ENGINE_ERROR
            return Failure(Reason.BACKEND, code, f"the runner failed: {os.strerror(cause.errno or 0)}", transient=not self._fills(code))

    def _fills(self, code: str) -> bool:
        """The disk is full after an executor has run: most likely its doing, which it would only do again."""
        return code == Code.DISK_FULL and bool(self._exits)

    def _pass_gate(self) -> tuple[Failure | None, tuple[str, ...]]:
        """Scan the task's own images before anything of it begins. What an earlier process began goes on; what it ended is judged again."""
        gate, lines = self.plan.gate, tuple[str, ...]()
        if gate is None:
            return None, ()
        self._move(Phase.STAGING)
        for check, cell in zip(gate.checks, site.checks(self._attempt, self.plan, self._site), strict=True):
            expired, log, why = threading.Event(), ExecutorLog(), ""
            try:
                ended = self._scan(check, cell, gate.timeout, expired)
                log, why = self._log(cell, ended) if ended else log, gatekeeper.untold(ended)
            except (errors.EngineError, errors.StagingError) as cause:
                why = cause.public
            if self._stopped():
                return self._halted(), ()
            if expired.is_set():
                why = f"its scanner was given up after {gate.timeout:g} s"
            found, more = gatekeeper.ruling(gate, check, cell.volume, log, self._clock(), why)
            lines += more
            if found is not None:
                return found, lines
        return None, lines

    def _scan(self, check: Check, cell: Cell, timeout: float, expired: threading.Event) -> Exit | None:
        """One scanner to its end; None = LOST."""
        for path in (cell.volume, cell.record):
            path.mkdir(parents=True, exist_ok=True)
        if check.findings.image:
            self._prepare(check.findings.image)
        cell = msgspec.structs.replace(cell, image=self._prepare(cell.step.image))
        if vault.wanted(cell.step) and records.start(cell.record) is None:
            cell = msgspec.structs.replace(cell, step=Vault(self._site.scan_secrets, self._site.look, table="scan_secrets").opened(cell.step), secret=True)
        self._current = cell

        def expire() -> None:
            expired.set()
            self._stop(cell)

        timer = threading.Timer(timeout, expire)
        timer.daemon = True
        timer.start()
        try:
            self._reach(lambda: self._engine.start(cell))
            if self._stopped():
                self._stop(cell)
            return self._reach(lambda: self._engine.wait(cell))
        finally:
            timer.cancel()
            self._remove(cell)

    def _stage_in(self, lines: tuple[str, ...]) -> Staged:
        self._move(Phase.STAGING)
        site.check_live(self.plan, self._site)
        for step in filter(vault.wanted, self.plan.executors):
            self._vault.opened(step)  # one that cannot be had is told before anything is fetched
        images = {step.shown_image: self._prepare(step.image) for step in {step.shown_image: step for step in self.plan.executors}.values()}
        if self.plan.stage_out.findings is not None and self.plan.stage_out.findings.image:
            self._prepare(self.plan.stage_out.findings.image)
        with self._moving("in") as progress:
            notices = transfer.stage_in(self.plan.stage_in, self._attempt.volume, self._site.access, self._stopped, progress)
        staged = Staged(images, (*lines, *notices), boot_id())
        self._attempt.set_staged(staged)
        return staged

    def _prepare(self, image: str) -> str:
        """A pull may hang on a registry for minutes. One that is abandoned does no harm: the image is there the next time."""
        return self._reach(lambda: self._halt.unless(lambda: self._engine.prepare(image)), self._halt.pause)

    def _begun(self, cell: Cell) -> bool:
        return self._attempt.exit(cell.step.index) is not None or self._reach(lambda: self._engine.state(cell)) is not CellState.ABSENT

    def _lost_with_the_machine(self, all_cells: list[Cell]) -> Failure:
        """The volume was not synced before the machine went down: neither results nor inputs in it can be trusted."""
        for cell in all_cells:
            if cell.record.exists():
                self._remove(cell)
        return Failure(Reason.LOST, Code.LOST, "the machine was restarted while the task ran")

    def _execute(self, all_cells: list[Cell]) -> Failure | None:
        for cell in all_cells:
            ended = self._attempt.exit(cell.step.index)
            if ended is None:
                if not self._may_go_on(cell):
                    return self._halted()
                try:
                    ended = self._command(self._with_secrets(cell))
                except (errors.EngineError, errors.StagingError, OSError):
                    self._remove(cell)  # when the end of the attempt is told, nothing of it may run
                    raise
            if ended is not None:
                self._exits.append((cell, ended))
            self._remove(cell)
            if self._stopped():
                return self._halted()
            if ended is None:
                return failure.of_nothing(cell.step)
            if ended.code != 0 and not cell.step.ignore_error:
                return failure.of_command(cell.step, cell.limits.ram_bytes, ended)
        return None

    def _with_secrets(self, cell: Cell) -> Cell:
        """What has begun has them, and goes on even if they cannot be had any more."""
        if not vault.wanted(cell.step) or records.start(cell.record) is not None:
            return cell
        return msgspec.structs.replace(cell, step=self._vault.opened(cell.step), secret=True)

    def _may_go_on(self, cell: Cell) -> bool:
        """False if the attempt is to stop and this cell has not begun. One that has begun is always seen to its end."""
        if not (self._stopped() or site.live(self.plan)) or self._begun(cell):
            return True
        site.check_live(self.plan, self._site)
        return not self._stopped()

    def _command(self, cell: Cell) -> Exit | None:
        """Start or adopt the cell and wait for its end, which is kept; None = LOST."""
        cell.record.mkdir(exist_ok=True)
        self._current = cell
        self._reach(lambda: self._engine.start(cell))
        self._move(Phase.RUNNING)
        if self._stopped():  # a wish that came before the start found nothing to stop
            self._stop(cell)
        ended = self._reach(lambda: self._engine.wait(cell))
        if ended is not None:
            self._keep_exit(cell, ended)
        return ended

    def _keep_exit(self, cell: Cell, ended: Exit) -> None:
        try:
            self._attempt.keep_exit(cell.step.index, ended)
        except OSError as cause:
            # The command may have filled the disk. Its own record, which had its room from the start, tells nearly as much.
            if cause.errno not in wording.FULL:
                raise

    def _stop(self, cell: Cell) -> None:
        try:
            self._reach(lambda: self._engine.stop(cell, self._site.grace))
        except (errors.EngineError, OSError) as cause:
            # It cannot be asked (as root of its container it can take its record from us): it is ended without being asked.
            telemetry.log(logger, logging.WARNING, "runner.stop.failed", cell=cell.name, error=str(cause))
            self._remove(cell)

    def _remove(self, cell: Cell) -> None:
        self._current = None
        try:
            self._reach(lambda: self._engine.remove(cell), stubborn=True)
            self._removed.add(cell.name)
        except errors.EngineError as cause:  # tried again with the attempt's directory
            telemetry.log(logger, logging.WARNING, "runner.cell.kept", cell=cell.name, error=str(cause))

    def _stage_out(self, found: Failure | None) -> tuple[tuple[OutputFileLog, ...], Failure | None]:
        """Take the outputs, after failures too; an earlier failure is never hidden by one of the transfer."""
        try:
            shared = {mount.path: mount.source for mount in site.live(self.plan)}
            with self._moving("out") as progress:
                collected = transfer.stage_out(self.plan.stage_out, self._attempt.volume, self._site.access, self._abandoned, shared, progress)
        except errors.Canceled:
            return (), found
        except errors.StagingError as cause:
            collected = Collected(outputs=(), notices=(), error=cause)
        found, notices = failure.after_stage_out(collected, found, ran=bool(self._exits))
        self._notices += notices
        return collected.outputs, found

    # -- the parts --------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _moving(self, direction: Direction) -> Iterator[Progress]:
        """Files are moved in the block: show how far they are."""
        self._progress = Progress(direction)
        try:
            yield self._progress
        finally:
            self._progress = None

    def _start_timer(self) -> None:
        if not self.plan.limits.max_runtime or self.start_time is None:
            return
        left = self.plan.limits.max_runtime - (self._clock() - self.start_time).total_seconds()
        self._timer = threading.Timer(max(0.0, left), self.stop, [Reason.TIMEOUT])
        self._timer.daemon = True
        self._timer.start()

    def _stopped(self) -> bool:
        return self._halt.reason is not None

    def _abandoned(self) -> bool:
        """Nobody wants the outputs: not those of a cancel, and who was ended from outside (LOST) is run again. Those of a time-out are taken."""
        return self._halt.reason in (Reason.CANCELED, Reason.LOST)

    def _halted(self) -> Failure:
        if self._halt.reason is Reason.TIMEOUT:
            return failure.of_time(self.plan.limits)
        if self._halt.reason is Reason.LOST:
            return failure.from_outside("it ran" if self._exits or self.phase is Phase.RUNNING else "its inputs were fetched")
        return Failure(Reason.CANCELED, Code.CANCELED, "stopped")

    def _log(self, cell: Cell, ended: Exit) -> ExecutorLog:
        out, err = self._engine.streams(cell)
        return ExecutorLog(start_time=ended.start_time, end_time=ended.end_time, exit_code=ended.code, stdout=out, stderr=err)

    def _move(self, phase: Phase) -> None:
        if self.phase is not phase:
            self.phase = phase
            self._changed()
