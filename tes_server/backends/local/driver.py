"""The local backend: attempts are directories, each run by an interpreter in a thread of this process.

Killed at any moment, a new driver on the same directory adopts what runs. It must never start an attempt whose plan is
not durable, nor forget one whose directory is there.
"""

from __future__ import annotations

import contextlib
import datetime
import logging
import pathlib
import queue
import shutil
import socket
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

from tes_server import errors, structs, telemetry
from tes_server.backends.base import Job
from tes_server.backends.local import place, render
from tes_server.model.run import Handle, Later, Observation, Phase, Reason, Refusal, Report, Room, Tails
from tes_server.plan.policy import Capabilities
from tes_server.plan.steps import Limits, Plan
from tes_server.runner.attempt import Attempt
from tes_server.runner.engine import Engine
from tes_server.runner.interpreter import Interpreter
from tes_server.runner.site import Site, all_cells
from tes_server.telemetry import Code

logger = logging.getLogger(__name__)

RETRY_TRASH = 60.0
"""Seconds after which what could not be deleted is tried again."""

GATHER = 0.2
"""Seconds in which directories to be deleted gather, so that one call of the engine (a process, or a container) does for all."""

LOW = 1 << 28
"""Bytes of free disk below which files of attempts that have ended are not kept until the end is saved: see `_make_way`."""

News = Callable[[Collection[str]], None]


class LocalBackend:
    """Backend of this machine below `directory`. `capabilities` bound both one task and all tasks together."""

    name = "local"

    def __init__(self, directory: pathlib.Path, engine: Engine, site: Site, capabilities: Capabilities, clock: Callable[[], datetime.datetime]) -> None:
        self.capabilities = capabilities
        self._attempts = directory / "attempts"
        self._trash = directory / "trash"
        for path in (self._attempts, self._trash):
            path.mkdir(mode=0o711, parents=True, exist_ok=True)
        self.place = place.place(directory)
        self._engine = engine
        self._site = site
        self._clock = clock
        self._news: News = lambda _: None
        self._lock = threading.Lock()
        self._running: dict[str, Interpreter] = {}
        self._reserved: dict[str, Limits] = {}
        self._where = {"backend": self.name, "engine": engine.name, "host": socket.gethostname()}
        self._bin: queue.SimpleQueue[pathlib.Path | None] = queue.SimpleQueue()
        self._cleaner: threading.Thread | None = None

    # -- life -------------------------------------------------------------------------------------------------------

    def resume(self) -> None:
        """Go on with every attempt whose directory is there, and empty the trash. Call once, before the first submit."""
        structs.settle()
        for directory in sorted(self._attempts.iterdir()):
            attempt = Attempt(directory)
            plan = attempt.plan()
            if plan is None:
                self._throw_away(directory)  # submit was cut off before its plan was whole: nothing ran
            elif attempt.report() is None:
                self._launch(attempt, plan)
            else:
                self._make_way(attempt)
        for directory in self._trash.iterdir():
            self._clean(directory)

    def close(self) -> None:
        """Stop the cleaner. Interpreter threads are daemons: executors go on without them, and the next driver adopts."""
        if self._cleaner is not None:
            self._bin.put(None)
            self._cleaner.join()
            self._cleaner = None

    def listen(self, news: News) -> None:
        """Phases that move are told at once."""
        self._news = news

    # -- the protocol -----------------------------------------------------------------------------------------------

    def render(self, plan: Plan) -> Job:
        """See `render.render`."""
        return render.render(plan)

    def submit(self, jobs: Sequence[Job]) -> Mapping[str, Handle | Refusal | Later]:
        """Each plan is durable before its thread starts."""
        answers: dict[str, Handle | Refusal | Later] = {}
        for job in jobs:
            attempt = self.attempt(job.name)
            try:
                plan = attempt.plan()
                if plan is None:
                    attempt.create(job.body)
                    plan = attempt.plan()
            except OSError as cause:
                # Later means that nothing is there: the next start of this server must not find a plan that another one runs by then.
                with contextlib.suppress(OSError):
                    self._throw_away(attempt.directory)
                    answers[job.name] = Later(Code.WAITING_BACKEND, f"the data directory cannot be written to: {cause.strerror}")
                continue
            if plan is not None:
                self._launch(attempt, plan)
                answers[job.name] = self._handle(job.name)
        return answers

    def find(self, names: Collection[str]) -> Mapping[str, Handle]:
        """Attempts whose plan is there."""
        return {name: self._handle(name) for name in names if (self._attempts / name / "plan.json").exists()}

    def observe(self, handles: Sequence[Handle]) -> Mapping[Handle, Observation]:
        """From the interpreters of this process; for the others from their reports."""
        return {handle: self._look(handle.name) for handle in self._here(handles)}

    def tail(self, handles: Sequence[Handle]) -> Mapping[Handle, Tails]:
        """Output up to now of attempts that run."""
        found: dict[Handle, Tails] = {}
        for handle in self._here(handles):
            interpreter = self._interpreter(handle.name)
            if interpreter is not None and interpreter.phase is Phase.RUNNING:
                with contextlib.suppress(errors.EngineError):  # one task that spoiled its record blinds nobody else's readers
                    found[handle] = Tails(interpreter.plan.attempt, interpreter.logs())
        return found

    def cancel(self, handles: Sequence[Handle]) -> None:
        """The wish is kept on disk first, so that a restart does not lose it."""
        kept = True
        for handle in self._here(handles):
            try:
                self.attempt(handle.name).set_canceled()
            except OSError as cause:  # the disk is full: this process stops it nevertheless
                telemetry.log(logger, logging.ERROR, "cancel.not.kept", attempt=handle.name, error=str(cause))
                kept = False
            interpreter = self._interpreter(handle.name)
            if interpreter is not None:
                interpreter.stop()
        if not kept:
            raise errors.Unavailable("the data directory cannot be written to")

    def release(self, handles: Sequence[Handle]) -> None:
        """Move each directory out of the way; its files are deleted in the background. What still runs is left to a later call."""
        for handle in self._here(handles):
            if self._interpreter(handle.name) is None:
                try:
                    self._throw_away(self._attempts / handle.name)
                except OSError as cause:
                    raise errors.Unavailable(f"the data directory cannot be written to: {cause.strerror}") from cause

    def survey(self) -> Iterator[Handle]:
        """Every attempt directory."""
        for directory in self._attempts.iterdir():
            yield self._handle(directory.name)

    def room(self) -> Room:
        """The site less what runs."""
        whole = self.capabilities
        with self._lock:
            taken = list(self._reserved.values())
        return Room(
            cpus=whole.cpus - sum(limits.cpus for limits in taken),
            ram_bytes=whole.ram_bytes - sum(limits.ram_bytes for limits in taken),
            disk_bytes=whole.disk_bytes - sum(limits.disk_bytes for limits in taken),
            total_cpus=whole.cpus,
            total_ram_bytes=whole.ram_bytes,
            total_disk_bytes=whole.disk_bytes,
            gpus=(whole.gpus or 0) - sum(limits.gpus for limits in taken),
            total_gpus=whole.gpus or 0,
        )

    def attempt(self, name: str) -> Attempt:
        """The directory of an attempt."""
        return Attempt(self._attempts / name)

    def _handle(self, name: str) -> Handle:
        return Handle(self.name, name, place=self.place)

    def _here(self, handles: Sequence[Handle]) -> list[Handle]:
        """Without those of other data directories. One without a place is of a version that knew one directory only."""
        return [handle for handle in handles if handle.place in ("", self.place)]

    # -- threads ----------------------------------------------------------------------------------------------------

    def _interpreter(self, name: str) -> Interpreter | None:
        with self._lock:
            return self._running.get(name)

    def _launch(self, attempt: Attempt, plan: Plan) -> None:
        with self._lock:
            if attempt.name in self._running or attempt.report() is not None:
                return
            task_id = plan.task_id
            interpreter = Interpreter(attempt, plan, self._engine, self._site, self._clock, lambda: self._news([task_id]))
            self._running[attempt.name] = interpreter
            self._reserved[attempt.name] = plan.limits
        thread = threading.Thread(target=self._run, args=(attempt, interpreter), name=attempt.name, daemon=True)
        try:
            thread.start()
        except RuntimeError as cause:  # no more threads on this machine
            self._forget(attempt.name)
            raise errors.EngineError("this machine has no room for another thread", Code.ENGINE_ERROR, transient=True) from cause

    def _run(self, attempt: Attempt, interpreter: Interpreter) -> None:
        try:
            interpreter.run()
            self._make_way(attempt)
        except Exception:
            logger.exception("runner.failed", extra={"fields": {"attempt": attempt.name}})
            self._give_up(attempt)
        finally:
            self._forget(attempt.name)
            self._news([interpreter.plan.task_id])

    def _give_up(self, attempt: Attempt) -> None:
        """A fault of ours must not leave the task without an end; executors that run are found and removed by `_throw_away`."""
        report = Report(reason=Reason.BACKEND, transient=True, code=Code.ENGINE_ERROR, message="the runner failed; the server's log says how")
        try:
            attempt.keep_report(report)
        except OSError as cause:
            telemetry.log(logger, logging.ERROR, "runner.report.failed", attempt=attempt.name, error=str(cause))

    def _forget(self, name: str) -> None:
        with self._lock:
            self._running.pop(name, None)
            self._reserved.pop(name, None)

    def _look(self, name: str) -> Observation:
        interpreter = self._interpreter(name)
        if interpreter is not None:
            # ENDED is told only once the thread is gone, so that a release that follows finds nothing running; and a
            # thread that has hardly begun is staging, or the one save that follows a submit would need a second one.
            phase = {Phase.ENDED: Phase.RUNNING, Phase.PENDING: Phase.STAGING}.get(interpreter.phase, interpreter.phase)
            silence, moving = interpreter.silence, interpreter.transfer
            code = Code.ENGINE_UNAVAILABLE if silence else Code.TRANSFER if moving else ""
            return Observation(phase=phase, start_time=interpreter.start_time, where=self._where, code=code, message=silence or moving)
        attempt = self.attempt(name)
        report = attempt.report()
        if report is not None:
            return Observation(phase=Phase.ENDED, report=report, where=self._where)
        if attempt.plan() is None:
            return Observation(phase=Phase.GONE, message="its directory is gone")
        return Observation(phase=Phase.ENDED, reason=Reason.LOST, code=Code.LOST, message="its runner ended without a report", where=self._where)

    # -- cleaning ---------------------------------------------------------------------------------------------------

    def _throw_away(self, directory: pathlib.Path) -> None:
        target = self._trash / f"{directory.name}.{uuid.uuid4().hex}"
        try:
            directory.rename(target)
        except FileNotFoundError:
            return
        self._clean(target)

    def _make_way(self, attempt: Attempt) -> None:
        """On a full disk the store cannot save that an attempt has ended, and it would never be released: its volume goes at once."""
        if shutil.disk_usage(attempt.directory).free < LOW:
            self._throw_away(attempt.volume)

    def _clean(self, directory: pathlib.Path) -> None:
        if self._cleaner is None:
            self._cleaner = threading.Thread(target=self._empty, name="cleaner", daemon=True)
            self._cleaner.start()
        self._bin.put(directory)

    def _empty(self) -> None:
        """Delete what is put into the bin; if something cannot be deleted now (the engine is down), all of the trash is tried again later."""
        left = False
        while True:
            try:
                found = [self._bin.get(timeout=RETRY_TRASH if left else None)]
            except queue.Empty:
                left = not self._delete(list(self._trash.iterdir()))
                continue
            time.sleep(GATHER)
            with contextlib.suppress(queue.Empty):
                while True:
                    found.append(self._bin.get_nowait())
            directories = [directory for directory in found if directory is not None]
            left = not self._delete(directories) or left
            if len(directories) < len(found):
                return

    def _delete(self, directories: Sequence[pathlib.Path]) -> bool:
        """True if nothing of them is left."""
        bare = [directory for directory in directories if self._remove_cells(directory)]
        complete = len(bare) == len(directories)
        try:
            for directory in _together(bare):
                # All of it by the engine: containers write to records too, as whatever user they run.
                self._engine.wipe(directory)
        except (OSError, errors.EngineError) as cause:
            telemetry.log(logger, logging.WARNING, "trash.kept", directory=bare[0].name, error=str(cause))
            return False
        return complete

    def _remove_cells(self, directory: pathlib.Path) -> bool:
        """Remove from the engine what the interpreter of an attempt could not; False if that cannot be done now."""
        attempt = Attempt(directory)
        try:
            plan = None if attempt.clean else attempt.plan()
            for cell in all_cells(attempt, plan, self._site) if plan else ():
                if cell.record.exists():
                    self._engine.remove(cell)
        except (OSError, errors.EngineError) as cause:
            telemetry.log(logger, logging.WARNING, "trash.kept", directory=directory.name, error=str(cause))
            return False
        return True


def _together(directories: Sequence[pathlib.Path]) -> list[pathlib.Path]:
    """All of them moved into the first, where the disk has room for that: one call of an engine deletes them all."""
    heads = [*directories[:1]]
    for directory in directories[1:]:
        try:
            directory.rename(heads[0] / directory.name)
        except OSError:
            heads.append(directory)
    return heads
