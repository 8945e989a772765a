"""What a runner on a node does: takes its attempt, walks through the plan, and reports (`node_main` is its program).

Nothing has an effect before the attempt is taken, and nothing of it runs any more when its report can be seen. TERM means that the platform ends this
runner and says why: executors are ended, no output is taken, the report says LOST. This module must never hand anything of the runner's environment to
an executor.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import logging
import os
import pathlib
import shutil
import threading
from collections.abc import Callable, Mapping
from typing import NamedTuple

import msgspec

from tes_server import errors, structs, telemetry
from tes_server.filer import spool, spool_place, wording
from tes_server.filer.spool import Spool
from tes_server.model import run as names
from tes_server.model.run import Reason, Report
from tes_server.plan.steps import Plan
from tes_server.runner import clouds, failure, node, node_engine, node_sweep
from tes_server.runner.attempt import Attempt
from tes_server.runner.docker import DockerEngine
from tes_server.runner.failure import Failure
from tes_server.runner.interpreter import Interpreter
from tes_server.runner.node import NodeSite
from tes_server.runner.node_place import Place
from tes_server.runner.node_wait import Wait
from tes_server.runner.reach import Reach
from tes_server.runner.site import Site
from tes_server.runner.tails import Pace, Teller
from tes_server.telemetry import Code

logger = logging.getLogger(__name__)

START_PATIENCE = 600.0
"""Seconds that the spool may be away before anything was done: the platform's retry is better than a node held for nothing."""

END_PATIENCE = 86400.0
"""Seconds for which a report is offered to a spool that is away: what it cost to make is more than a node's day."""

LAST_WORDS = 5.0
"""Seconds after TERM, and the grace of the commands, in which a report may still reach the spool."""

TELLING = Pace(2.0, 300.0)
"""How often live output is looked at: each word is a paid request."""

GB = 1e9


class Order(NamedTuple):
    """What a runner is told by its environment."""

    site: NodeSite
    attempt: spool.Attempt
    run: str

    @property
    def name(self) -> str:
        """The name of the attempt, as everywhere."""
        return names.job_name(self.attempt.task, self.attempt.number)


def read(environment: Mapping[str, str]) -> Order:
    """The order of a runner. Raises SettingsError that names the variable at fault."""

    def value(name: str) -> str:
        found = _text(name) if name.startswith("/") else environment.get(name, "")
        if not found:
            raise errors.SettingsError("is not set: a runner is started by the TES server, as a job of its platform", name)
        return found

    try:
        site = msgspec.json.decode(value(node.SITE), type=NodeSite)
    except msgspec.MsgspecError as cause:
        raise errors.SettingsError(f"is not what this version reads: {cause}", node.SITE) from cause
    task, _, number = value(node.ATTEMPT).rpartition("/")
    if not site.run:
        raise errors.SettingsError("names no variable that tells runs apart", f"{node.SITE}.run")
    try:
        attempt = spool.Attempt(task, int(number))
        attempt.name_of("plan")
    except ValueError as cause:
        raise errors.SettingsError("must be <task>/<number>", node.ATTEMPT) from cause
    return Order(site, attempt, "/".join(value(name) for name in site.run))


def _text(path: str) -> str:
    try:
        return pathlib.Path(path).read_text().strip()
    except (OSError, ValueError) as cause:
        raise errors.SettingsError("cannot be read, and tells runs apart", path) from cause


def run(environment: Mapping[str, str], stop: threading.Event) -> int:
    """One attempt, until its end or soon after `stop`. The exit code, see `node`."""
    try:
        order = read(environment)
    except errors.SettingsError as cause:
        telemetry.log(logger, logging.ERROR, "node.failed", error=cause.public)
        return node.FAILED
    ended: list[int] = []

    def work() -> None:
        try:
            ended.append(_run(order, environment, stop))
        except (errors.TesServerError, OSError) as cause:
            telemetry.log(logger, logging.ERROR, "node.failed", attempt=order.name, error=str(cause))
        except Exception:
            logger.exception("node.failed", extra={"fields": {"attempt": order.name}})
        finally:
            stop.set()

    structs.settle()
    # Not in the main thread: that one must be free to hear signals, and calls into libraries can hold it for long.
    worker = threading.Thread(target=work, name="attempt", daemon=True)
    worker.start()
    stop.wait()
    worker.join(order.site.grace + 2 * LAST_WORDS)
    if worker.is_alive():
        telemetry.log(logger, logging.ERROR, "node.cut", attempt=order.name)
        os._exit(node.FAILED)  # threads that hang in a library would abort an orderly end; the sweep does the rest
    return ended[0] if ended else node.FAILED


def _run(order: Order, environment: Mapping[str, str], stop: threading.Event) -> int:
    waiting = Wait(stop, START_PATIENCE)
    kept = _spool(order.site, stop.is_set)
    if not waiting.ask(lambda: kept.take(order.attempt, order.run)):
        telemetry.log(logger, logging.WARNING, "node.taken", attempt=order.name, run=order.run)
        return node.TAKEN
    try:
        place = Place(pathlib.Path(order.site.work))
        lock = waiting.until(lambda: place.take(order.name), f"another process has {order.name} on this node")
    except OSError as cause:  # nothing is here that could be in the way of a report
        return _publish(order, failure.report(_of_disk(cause), _now(), _now()), stop)
    try:
        if waiting.ask(lambda: kept.report(order.attempt)) is not None:
            return node.DONE  # by this very run, before it was started again
        plan = waiting.ask(lambda: kept.plan(order.attempt))
        if plan is None:
            telemetry.log(logger, logging.WARNING, "node.nothing", attempt=order.name, run=order.run)
            with contextlib.suppress(errors.TesServerError):  # our own mark, which nobody else comes for, but not worth a wait
                kept.sweep(order.attempt)
            return node.NOTHING
        telemetry.log(logger, logging.INFO, "node.began", attempt=order.name, run=order.run)
        _sweep(order.site, place)  # before anything needs room on the disk
        try:
            program = place.program()
        except OSError as cause:
            return _publish(order, failure.report(_of_disk(cause), _now(), _now()), stop)
        engine = node_engine.for_attempt(order.site, program, environment)
        return _attempt(order, plan, place, engine, kept, stop)
    finally:
        lock.release()


def _sweep(site: NodeSite, place: Place) -> None:
    engine = node_engine.connect(site.work)
    try:
        node_sweep.sweep(place, engine)
    except (OSError, errors.EngineError) as cause:
        telemetry.log(logger, logging.ERROR, "node.sweep.failed", error=str(cause))
    finally:
        engine.close()


def _attempt(order: Order, plan: Plan, place: Place, engine: DockerEngine, kept: Spool, stop: threading.Event) -> int:
    """The attempt is ours alone now: run it, tell how it ended, leave nothing."""
    attempt = Attempt(place.attempts / order.name)
    report = _report(order, plan, attempt, engine, kept, stop)
    if not attempt.clean:  # it may not end for others while anything of it runs
        Reach(lambda: None)(lambda: node_sweep.remove(engine, [order.name]), stubborn=True)
    code = _publish(order, report, stop)
    node_sweep.wipe(place, engine, order.name)
    return code


def _report(order: Order, plan: Plan, attempt: Attempt, engine: DockerEngine, kept: Spool, stop: threading.Event) -> Report:
    began = _now()
    try:
        if attempt.plan() is None:
            if (found := _lacks_disk(order.site, plan)) is not None:
                return failure.report(found, began, _now())
            attempt.create(msgspec.json.encode(plan))
    except OSError as cause:
        return failure.report(_of_disk(cause), began, _now())
    site = order.site
    shared = Site(
        access=site.access,
        live_roots=site.live_roots,
        tail_bytes=site.tail_bytes,
        grace=site.grace,
        labels={node.LABEL: order.name, node.RUN: order.run},
        secrets=site.secrets,
        scan_secrets=site.scan_secrets,
        look=functools.partial(clouds.secret, client_id=site.client_id),
    )
    interpreter = Interpreter(attempt, plan, engine, shared, _now, lambda: None)

    def end() -> None:
        stop.wait()
        interpreter.stop(Reason.LOST)

    threading.Thread(target=end, name="end", daemon=True).start()
    steps = [attempt.record(executor.index) for executor in plan.executors]
    try:
        with Teller(plan.attempt, steps, site.tail_bytes, TELLING, lambda tails: kept.put_tail(order.attempt, tails)):
            return interpreter.run()
    except Exception:
        logger.exception("runner.failed", extra={"fields": {"attempt": order.name}})
        return failure.report(Failure(Reason.BACKEND, Code.ENGINE_ERROR, "the runner failed; its log says how", transient=True), began, _now())


def _publish(order: Order, report: Report, stop: threading.Event) -> int:
    """The exit code: FAILED where the spool did not take the report in all the time there was."""
    telemetry.log(logger, logging.INFO, "node.ended", attempt=order.name, reason=report.reason, code=report.code, message=report.message)
    waiting = Wait(stop, END_PATIENCE, LAST_WORDS)
    kept = _spool(order.site, waiting.over)
    waiting.ask(lambda: kept.put_report(order.attempt, report))
    return node.DONE


def _spool(site: NodeSite, stopped: Callable[[], bool]) -> Spool:
    return spool_place.opened(site.spool, msgspec.structs.replace(site.access, stores=site.spool_stores), stopped)


def _lacks_disk(site: NodeSite, plan: Plan) -> Failure | None:
    """A node whose disk others have filled: a new attempt may well find a better one."""
    free, wanted = shutil.disk_usage(site.work).free, plan.limits.disk_bytes
    if free >= wanted:
        return None
    message = f"the node's disk has {free / GB:.3g} GB left, the task asks for {wanted / GB:.3g}"
    return Failure(Reason.BACKEND, Code.DISK_FULL, message, transient=True)


def _of_disk(cause: OSError) -> Failure:
    code = Code.DISK_FULL if cause.errno in wording.FULL else Code.ENGINE_ERROR
    return Failure(Reason.BACKEND, code, f"the node's directory for tasks cannot be written to: {os.strerror(cause.errno or 0)}", transient=True)


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
