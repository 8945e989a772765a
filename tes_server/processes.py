"""The processes of `tes-server serve`: a parent that holds the listening socket, an API child and a reconciler child.

The parent only watches: a child that dies, by whatever signal, is started again while connections wait in the socket's
queue. Children die with the parent. It must never run a task or answer a request itself.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import gc
import logging
import os
import pathlib
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from tes_server import app, audit_rules, errors, metrics_files, signals, telemetry
from tes_server.settings import Settings
from tes_server.store.base import Store

logger = logging.getLogger(__name__)

LOCK = "serve.lock"
"""In the data directory, held by the server that has it."""

PATIENCE = 15.0
"""Seconds that children get to end after TERM before they are killed; requests are answered in far less."""

RESPAWN = 1.0
"""Seconds between two starts of a child that keeps dying."""

HANDOVER = 1.0
"""Seconds for which the children of a server that was killed just now may still hold its data directory and its port."""

REMIND = 60.0
"""Seconds after which the log has again that another server bears our name."""

GARBAGE = 10_000
"""New objects between two searches for cycles, some MB at most: Python's 700 cost an eighth of each create."""

_PR_SET_PDEATHSIG = 1


def listen(host: str, port: int) -> socket.socket:
    """The listening socket. Raises SettingsError where the address cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    until = time.monotonic() + HANDOVER
    while True:
        try:
            listener.bind((host, port))
        except (OSError, OverflowError) as cause:
            if isinstance(cause, OSError) and cause.errno == errno.EADDRINUSE and time.monotonic() < until:
                time.sleep(0.05)
                continue
            listener.close()
            why = cause.strerror if isinstance(cause, OSError) else "there are ports from 0 to 65535"
            raise errors.SettingsError(f"cannot listen on {host} port {port}: {why} (0 takes a free port)", "server.port") from cause
        listener.listen(2048)
        return listener


def own(data: pathlib.Path, stand_by: Callable[[], None] | None = None) -> int:
    """Take the data directory for this server; returns the descriptor that holds it.

    Raises SettingsError if another has it; with `stand_by` that is called instead, and the directory waited for as long as it takes.
    """
    try:
        held = os.open(data / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as cause:
        raise errors.SettingsError(f"{data} cannot be written to: {cause.strerror}", "data") from cause
    until = time.monotonic() + HANDOVER
    while True:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as cause:
            if stand_by is not None:
                stand_by()
                signals.heed()
                fcntl.flock(held, fcntl.LOCK_EX)
                return held
            if time.monotonic() > until:
                os.close(held)
                raise errors.SettingsError(f"{data} is in use by another tes-server", "data") from cause
            time.sleep(0.05)
        else:
            return held


_WATCHED = {*signals.ASKED, signal.SIGCHLD}


def serve(settings: Settings, listener: socket.socket, *, api_only: bool, ready: Callable[[], None]) -> int:
    """Run API and reconciler (or the API alone) until TERM or INT; returns the exit code. `ready` is called in the parent once."""
    parts: dict[str, Callable[[], None]] = {"api": lambda: _api(settings, listener)}
    if not api_only:
        parts["reconciler"] = lambda: reconcile(settings)
    # Blocked and awaited instead of handled: a handler could interrupt this process between any two lines.
    signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
    signals.heed()
    children = {_spawn(name, run): name for name, run in parts.items()}
    started = dict.fromkeys(parts, time.monotonic())
    ready()
    while signal.sigwait(_WATCHED) not in signals.ASKED:
        for name in _reaped(children):
            if signal.sigtimedwait(signals.ASKED, max(0.0, RESPAWN - (time.monotonic() - started[name]))) is not None:
                _end(children)
                return 0
            started[name] = time.monotonic()
            children[_spawn(name, parts[name])] = name
    _end(children)
    return 0


def _reaped(children: dict[int, str]) -> list[str]:
    """The names of children that have died, taken out of `children`. As process 1 of a container we inherit every orphan, too."""
    names = []
    with contextlib.suppress(ChildProcessError):  # none is left
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                break
            if pid in children:
                telemetry.log(logger, logging.ERROR, "process.died", part=children[pid], status=os.waitstatus_to_exitcode(status))
                metrics_files.forget(pid)
                names.append(children.pop(pid))
    return names


def _spawn(name: str, run: Callable[[], None]) -> int:
    parent = os.getpid()
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        _is_child_of(parent)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _WATCHED)
        run()
        code = 0
    except errors.TesServerError as cause:
        telemetry.log(logger, logging.ERROR, "process.failed", part=name, error=str(cause))
    except SystemExit as cause:
        code = cause.code if isinstance(cause.code, int) else 1
    except BaseException:
        logger.exception("process.failed", extra={"fields": {"part": name}})
    finally:
        os._exit(code)


def _is_child_of(parent: int) -> None:
    """KILL for this process when its parent ends, however that happens; TERM ends it until it has handlers of its own: the parent's could lose it."""
    signals.forget(*signals.ASKED)
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)  # it ended before we asked


def _end(children: dict[int, str]) -> None:
    for pid in children:
        os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + PATIENCE
    while children and time.monotonic() < deadline:
        signal.sigtimedwait({signal.SIGCHLD}, 1.0)
        for pid in list(children):
            if os.waitpid(pid, os.WNOHANG)[0]:
                del children[pid]
    for pid in children:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def reconcile(settings: Settings) -> None:
    """The reconciler's process: until TERM or INT."""
    kept = _store(settings)
    _be_the_only_one(settings, kept)
    platforms = app.backends(settings)
    loop = app.reconciler(settings, kept, platforms)

    signals.hear(loop.stop, *signals.ASKED)
    _collect_rarely()
    told = audit_rules.of_server(settings, app.clock)
    if told is not None:
        told.took_effect("scan.settings", **audit_rules.scans(settings))
    telemetry.log(logger, logging.INFO, "reconciler.started", pid=os.getpid())
    loop.loop()
    for platform in platforms.values():
        platform.close()
    kept.close()


@contextlib.contextmanager
def metrics(settings: Settings) -> Iterator[None]:
    """A port for the metrics of a reconciler without an API, if one is wanted. Raises SettingsError where it cannot be had."""
    if not settings.control.metrics_port:
        yield
        return
    import prometheus_client

    registry = prometheus_client.CollectorRegistry()
    registry.register(metrics_files.Together())
    where = settings.server.host, settings.control.metrics_port
    try:
        server, thread = prometheus_client.start_http_server(where[1], where[0], registry)
    except OSError as cause:
        raise errors.SettingsError(f"cannot listen on {where[0]} port {where[1]}: {cause.strerror}", "control.metrics_port") from cause
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _be_the_only_one(settings: Settings, kept: Store) -> None:
    """Wait until no other living server bears this directory's name: in a copy of a directory the same attempts would go on a second time."""
    who, told = app.place_name(settings), float("-inf")
    while True:
        try:
            kept.hold(who, app.clock())
        except errors.NameTaken as cause:
            if time.monotonic() > told + REMIND:
                told = time.monotonic()
                telemetry.log(logger, logging.ERROR, "reconciler.name_taken", error=str(cause))
            signals.heed()
            time.sleep(RESPAWN)
        except errors.Unavailable:
            return  # nobody can tell: what runs here is looked after whether or not the store is there
        else:
            return


def _store(settings: Settings) -> Store:
    """The store; one that does not answer yet is told in the log and used nevertheless: /readyz says 503 until it does."""
    kept = app.store(settings)

    def look() -> None:
        try:
            kept.check()
        except errors.TesServerError as cause:
            telemetry.log(logger, logging.ERROR, "store.not_ready", error=str(cause))

    threading.Thread(target=look, name="store-check", daemon=True).start()
    return kept


def _collect_rarely() -> None:
    """What was made at start-up stays: the collector of reference cycles looks at the rest only, and after more of it."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE, 20, 50)


def _api(settings: Settings, listener: socket.socket) -> None:
    """gunicorn with uvicorn workers on the parent's socket."""
    from tes_server import workers

    def load() -> Any:
        from tes_server.api import application

        kept = _store(settings)
        built = application.build(app.service(settings, kept), settings, [kept.close])
        _collect_rarely()
        return built

    workers.run(settings, listener, load, forked=_is_child_of, patience=PATIENCE)
