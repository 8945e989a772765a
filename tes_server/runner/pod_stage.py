"""What stage-in and stage-out do in a task's pod (`pod_main` is their program).

Stage-in prepares the volumes for containers that may run as any user; stage-out waits for the executors, takes the outputs and writes the
report. Both end soon after TERM. This module must never trust what executors can write: records are read by `records`, outputs by the filer.
"""

from __future__ import annotations

import datetime
import os
import pathlib
import shutil
import sys
import time
from collections.abc import Callable, Iterable
from typing import Literal, NamedTuple

import msgspec

from tes_server import errors, step, telemetry
from tes_server.filer import spool, spool_place, transfer, wording
from tes_server.filer.manifest import Collected
from tes_server.model.run import Reason, Report, Tails
from tes_server.model.task import ExecutorLog, OutputFileLog
from tes_server.plan import secret_names
from tes_server.plan.steps import Execute, Plan
from tes_server.runner import failure, findings, pod, pod_end, pod_gate, pod_report, records, site
from tes_server.runner.failure import Failure
from tes_server.runner.pod import Order
from tes_server.runner.pod_end import Ending
from tes_server.runner.site import Site
from tes_server.runner.tails import Pace, Teller
from tes_server.telemetry import Code

SHORTEST, LONGEST = 0.002, 0.2
"""Seconds between two looks for the lock of a step whose container is still to be made."""

TELLING = Pace(0.5, 5.0)
"""How often live output is looked at: a line of a log costs little."""

Clock = Callable[[], datetime.datetime]


class Places(NamedTuple):
    """Where the volumes are, and where last words go."""

    control: pathlib.Path = pathlib.Path(pod.CONTROL)
    volume: pathlib.Path = pathlib.Path(pod.VOLUME)
    message: pathlib.Path = pathlib.Path(pod.MESSAGE)
    parts: pathlib.Path = pathlib.Path(pod.ORDER_PARTS)
    shared: bool = False
    """the volume is a directory on one that others share: made here, and removed at the end"""
    scan: pathlib.Path = pathlib.Path(pod.SCAN)

    def step(self, index: int) -> pathlib.Path:
        """The directory of executor `index`."""
        return self.control / pod.step(index)


class Staged(msgspec.Struct, frozen=True):
    """What stage-in leaves for the report: when the attempt began, and lines for system_logs."""

    start_time: datetime.datetime
    notices: tuple[str, ...]


# -- stage-in ---------------------------------------------------------------------------------------------------------


def stage_in(order: Order, places: Places, stopped: Callable[[], bool], clock: Clock) -> Report | None:
    """Prepare both volumes. The report of an attempt that ends here, or None if the executors may run."""
    began = clock()
    plan = order.plan
    refused, lines = pod_gate.judged(plan, places.scan, order.site.tail_bytes, began)
    if refused is not None:
        return msgspec.structs.replace(failure.report(refused, began, clock()), notices=lines)
    end = time.monotonic() + plan.limits.max_runtime if plan.limits.max_runtime else float("inf")
    try:
        _prepare(order, places, end)
        site.check_live(plan, Site(access=order.site.access, live_roots=order.site.live_roots))
        notices = transfer.stage_in(plan.stage_in, places.volume, order.site.access, lambda: stopped() or time.monotonic() >= end)
        (places.control / pod.STAGED).write_bytes(msgspec.json.encode(Staged(began, (*lines, *notices))))
    except errors.Canceled:
        found = failure.from_outside("its inputs were fetched") if stopped() else failure.of_time(plan.limits)
    except errors.StagingError as cause:
        found = failure.of_staging(cause)
    except errors.EngineError as cause:
        found = Failure(Reason.BACKEND, cause.code, cause.public, cause.transient)
    except OSError as cause:
        code = Code.DISK_FULL if cause.errno in wording.FULL else Code.ENGINE_ERROR
        found = Failure(Reason.BACKEND, code, f"the volumes could not be prepared: {os.strerror(cause.errno or 0)}", transient=code != Code.DISK_FULL)
    else:
        return None
    return failure.report(found, began, clock())


def _prepare(order: Order, places: Places, end: float) -> None:
    """What the executors' tes-step needs, readable for any user; their records writable for any, since images run as they like."""
    umask = os.umask(0)
    try:
        if places.shared:
            _give_back(places)  # what an attempt left that could not end in order
            places.volume.mkdir(parents=True)
        binaries = places.control / pod.BIN
        binaries.mkdir(mode=0o755, exist_ok=True)
        shutil.copyfile(step.path(), binaries / "tes-step")
        (binaries / "tes-step").chmod(0o755)
        if order.plan.limits.max_runtime:
            (binaries / pod.UNTIL).write_text(str(int(end * 1e9)))
        for executor in order.plan.executors:
            directory = places.step(executor.index)
            directory.mkdir(mode=0o777, parents=True, exist_ok=True)
            (directory / pod.ARGV).write_bytes(_strings(executor.argv))
            (directory / pod.ENV).write_bytes(_strings(f"{name}={value}" for name, value in executor.env.items() if secret_names.read(value) is None))
    finally:
        os.umask(umask)
    kept = places.control / pod.KEPT_ORDER
    kept.touch(mode=0o600)
    kept.write_bytes(pod.encode(order))


def _give_back(places: Places) -> None:
    """Remove what this attempt, and those before it, have on a shared volume."""
    if places.shared:
        shutil.rmtree(places.volume.parent, ignore_errors=True)


def _strings(words: Iterable[str]) -> bytes:
    return b"".join(word.encode() + b"\0" for word in words)


# -- stage-out --------------------------------------------------------------------------------------------------------


def stage_out(places: Places, stopped: Callable[[], bool], clock: Clock, tell: Callable[[bytes], None]) -> tuple[Order, Report]:
    """Wait for the executors, take the outputs, and report. `tell` gets lines with the output up to now while they run."""
    order = msgspec.json.decode((places.control / pod.KEPT_ORDER).read_bytes(), type=Order)
    staged = msgspec.json.decode((places.control / pod.STAGED).read_bytes(), type=Staged)
    plan = order.plan

    def line(tails: Tails) -> None:
        tell(msgspec.json.encode(tails) + b"\n")

    with Teller(plan.attempt, [places.step(executor.index) for executor in plan.executors], order.site.tail_bytes, TELLING, line):
        logs, found = _await_executors(order, places, stopped)
    outputs: tuple[OutputFileLog, ...] = ()
    notices: tuple[str, ...] = ()
    # Who was ended from outside is run again, or not wanted any more: half of its outputs would only be in the way.
    if found is None or found.reason is not Reason.LOST:
        ran = any(log.exit_code is not None for log in logs)
        outputs, found, notices = _collect(plan, order, places, found, stopped, ran=ran)
        logs, found = findings.settle(plan.stage_out.findings, places.volume, logs, found)
    report = failure.report(found, staged.start_time, clock())
    images = {executor.named: executor.image for executor in plan.executors if executor.named}
    return order, msgspec.structs.replace(report, executors=logs, outputs=outputs, notices=(*staged.notices, *notices), images=images)


def _await_executors(order: Order, places: Places, stopped: Callable[[], bool]) -> tuple[tuple[ExecutorLog, ...], Failure | None]:
    """The logs of all executors that were started, and the first failure that counts."""
    logs: list[ExecutorLog] = []
    for executor in order.plan.executors:
        record = places.step(executor.index)
        if not _await_lock(record, stopped):
            return tuple(logs), failure.from_outside(f"executor {executor.index} was still to be started")
        records.await_end(record)
        try:
            log, found = _ended(order, executor, record)
        except errors.EngineError as cause:  # the command spoiled its own record
            log, found = ExecutorLog(), Failure(Reason.BACKEND, cause.code, f"executor {executor.index}: {cause.public}")
        if log is not None:
            logs.append(log)
        if found is not None:
            return tuple(logs), found
    return tuple(logs), None


def _await_lock(record: pathlib.Path, stopped: Callable[[], bool]) -> bool:
    """Wait until tes-step has begun; False if we are to end and it has not. An end that is written counts: the command may have removed the lock."""
    began = time.monotonic()
    while not any(os.path.lexists(record / name) for name in (records.LOCK, "exit", "skipped")):
        if stopped():
            return False
        time.sleep(min(LONGEST, max(SHORTEST, (time.monotonic() - began) / 50)))
    return True


def _ended(order: Order, executor: Execute, record: pathlib.Path) -> tuple[ExecutorLog | None, Failure | None]:
    """See `pod_end.judge`; of one that was skipped there is no log."""
    plan = order.plan
    if records.skipped(record):
        return None, failure.of_time(plan.limits) if records.late(record) else failure.from_outside(f"executor {executor.index} waited for its turn")
    began, ended = records.start(record), records.ended(record)
    out, err = records.streams(record, order.site.tail_bytes)
    if ended is not None:
        ended = msgspec.structs.replace(ended, oom=ended.code != 0 and records.out_of_memory(record))
    seen = Ending(
        stdout=out,
        stderr=err,
        start_time=began.time if began else None,
        ended=ended,
        failed=records.failed(record),
        cut=records.cut(record),
        late=records.late(record),
    )
    return pod_end.judge(executor, plan.limits, seen)


def _collect(
    plan: Plan, order: Order, places: Places, found: Failure | None, stopped: Callable[[], bool], *, ran: bool
) -> tuple[tuple[OutputFileLog, ...], Failure | None, tuple[str, ...]]:
    shared = {mount.path: mount.source for mount in site.live(plan)}
    try:
        collected = transfer.stage_out(plan.stage_out, places.volume, order.site.access, stopped, shared)
    except errors.Canceled:
        if found is None:
            return (), failure.from_outside("its outputs were taken"), ()
        return (), found, (telemetry.line(Code.OUTPUT_ERROR, "stopped before all outputs were taken"),)
    except errors.StagingError as cause:
        collected = Collected(outputs=(), notices=(), error=cause)
    found, notices = failure.after_stage_out(collected, found, ran=ran)
    return collected.outputs, found, notices


# -- the container ----------------------------------------------------------------------------------------------------


def publish(order: Order, report: Report, places: Places) -> None:
    """Into the spool if there is one, and as the container's last words; where these cannot hold it, its log does."""
    place: Literal["log", "spool"] = "log"
    if order.site.spool:
        try:
            attempt = spool.Attempt(order.plan.task_id, order.plan.attempt)
            access = msgspec.structs.replace(order.site.access, stores=order.site.spool_stores)
            spool_place.opened(order.site.spool, access).put_report(attempt, report)
            place = "spool"
        except errors.Unavailable as cause:
            print(f"the spool does not take the report: {cause.public}", file=sys.stderr)  # noqa: T201 - this container's log
    # Always: what people look at first, and the last line is what the server reads.
    say(pod_report.body(report) + b"\n")
    places.message.write_bytes(pod_report.message(report, place, pod.message_bytes(order.plan)))


def say(line: bytes) -> None:
    """A line of the container's log."""
    sys.stdout.buffer.write(line)
    sys.stdout.buffer.flush()


def read_order(environment: str | None, parts: pathlib.Path) -> Order:
    """The order, from its variable or from its parts."""
    if environment is not None:
        return msgspec.json.decode(environment, type=Order)
    names = sorted((path for path in parts.iterdir() if path.name.isdigit()), key=lambda path: int(path.name))
    return msgspec.json.decode(b"".join(path.read_bytes() for path in names), type=Order)


def run(direction: str, places: Places, stopped: Callable[[], bool]) -> int:
    """One stage step, from order to last words. The exit code: 1 where the attempt ends with a stage-in that failed."""

    def clock() -> datetime.datetime:
        return datetime.datetime.now(datetime.UTC)

    if direction == "out":
        try:
            publish(*stage_out(places, stopped, clock, say), places)
        finally:
            _give_back(places)
        return 0
    order = read_order(os.environ.pop(pod.ORDER, None), places.parts)
    report = stage_in(order, places, stopped, clock)
    if report is None:
        return 0
    publish(order, report, places)
    _give_back(places)
    return 1


def places(directory: str = "") -> Places:
    """Those of a pod; `directory`: of the shared volume that stands in for one of its own."""
    return Places(volume=pathlib.Path(pod.SHARED, directory), shared=True) if directory else Places()
