"""Reads what tes-step wrote of one command: its record directory (the format is the head of step/record.c and stream.c).

The command may have run as the user who owns the record, so everything here is taken for hostile: no link is followed,
nothing but regular files is opened, reads are bounded, numbers are parsed strictly. This module must never write to a
record, but for the request to stop.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import os
import pathlib
import re
import signal
import stat
import tempfile

import msgspec

from tes_server import errors
from tes_server.runner.engine import CellState, Exit
from tes_server.telemetry import Code

LOCK = "lock"
_LINE_MAX = 128  # longer than any line that tes-step writes
_COUNT = 8  # bytes of the count at the head of a ring file
_KEEP_MAX = 1 << 24  # more than any setting of tail_bytes asks for: bounds what a forged file makes us read


class Start(msgspec.Struct, frozen=True):
    """The supervisor as it saw itself: `ticks` since boot at its own start make the pid unmistakable (in its own pid namespace)."""

    pid: int
    ticks: int
    time: datetime.datetime


def start(record: pathlib.Path) -> Start | None:
    """The start record, or None: the command never ran. `errors.EngineError` if it is damaged."""
    numbers = _numbers(record, "start", 3)
    return Start(numbers[0], numbers[1], time_of(numbers[2])) if numbers else None


def ended(record: pathlib.Path) -> Exit | None:
    """The exit record, or None: not there (yet). Whether it was for memory: `out_of_memory`. `errors.EngineError` if it is damaged."""
    numbers = _numbers(record, "exit", 4)
    if not numbers:
        return None
    code, number, began, finished = numbers
    if code > 255 or number > 64:
        raise _damaged("exit")
    return Exit(code=code, signal=number, start_time=time_of(began), end_time=time_of(finished))


def failed(record: pathlib.Path) -> bool:
    """The command was not started, for no fault of its own: its `Exit` is tes-step's (125) and stderr says why."""
    return _read(record, "failed", _LINE_MAX) is not None


def cut(record: pathlib.Path) -> bool:
    """The command was ended by somebody else than the server or itself: its `Exit` is not the command's own."""
    return _read(record, "cut", _LINE_MAX) is not None


def late(record: pathlib.Path) -> bool:
    """The command was ended, or not begun, because its time was over."""
    return _read(record, "late", _LINE_MAX) is not None


def skipped(record: pathlib.Path) -> bool:
    """The command was not run: a step before it failed, or its time was over, or it was ended while it waited for its turn."""
    return _read(record, "skipped", _LINE_MAX) is not None


def out_of_memory(record: pathlib.Path) -> bool:
    """A process of the command was killed for memory. Marked before the exit record is written."""
    return _read(record, "oom", _LINE_MAX) is not None


def state(record: pathlib.Path) -> CellState:
    """By lock and records: an exit record is ENDED whatever else holds; then a held lock is RUNNING."""
    if _read(record, "exit", _LINE_MAX) is not None:
        return CellState.ENDED
    if locked(record):
        return CellState.RUNNING
    # The end may have come between those two looks: the exit record is written before the lock is freed.
    if _read(record, "exit", _LINE_MAX) is not None:
        return CellState.ENDED
    return CellState.LOST if _read(record, "start", _LINE_MAX) is not None else CellState.ABSENT


def locked(record: pathlib.Path) -> bool:
    """Whether a supervisor lives. Probes share the lock, so they do not see one another."""
    try:
        lock = _open(record, LOCK)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def take_lock(record: pathlib.Path) -> int | None:
    """The lock, to be handed to a supervisor: a descriptor, or None if a supervisor has it. Never waits."""
    lock = os.open(record / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if locked(record):
                os.close(lock)
                return None
            continue  # it was a probe, for a moment
        return lock


def await_end(record: pathlib.Path) -> None:
    """Sleep in the kernel until no supervisor lives. Returns at once if there is none."""
    try:
        lock = _open(record, LOCK)
    except FileNotFoundError:
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_SH)
    finally:
        os.close(lock)


def wish_stop(record: pathlib.Path, grace: float) -> None:
    """Write the record's `stop` file: whoever starts or supervises the command ends it, KILL `grace` seconds after TERM.

    The wish is written before a supervisor is looked up, and the supervisor looks for it after it wrote its start record,
    so one of the two sees the other. The command may be able to write here too: no file of its making is opened.
    """
    descriptor, temporary = tempfile.mkstemp(prefix="stop.", dir=record)
    try:
        os.write(descriptor, str(max(0, int(grace * 1e9))).encode())
        os.fchmod(descriptor, 0o644)
    finally:
        os.close(descriptor)
    pathlib.Path(temporary).replace(record / "stop")


def ask_to_stop(record: pathlib.Path, grace: float, number: signal.Signals = signal.SIGTERM) -> None:
    """Signal the supervisor. On TERM it ends its command and writes how: KILL `grace` seconds after TERM. Nothing where none lives.

    Only for records that the command itself cannot write to: a forged `start` would aim the signal at another process.
    Never signals a process that merely got the same pid.
    """
    wish_stop(record, grace)
    begun = start(record)
    if begun is None:
        return
    try:
        process = os.pidfd_open(begun.pid)
    except ProcessLookupError:
        return
    try:
        # The descriptor is pinned to whoever has the pid now; only then is it asked who that is.
        if start_ticks(begun.pid) == begun.ticks:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(process, number)
    finally:
        os.close(process)


def start_ticks(pid: int) -> int | None:
    """Field 22 of /proc/PID/stat, or None if there is no such process."""
    try:
        text = pathlib.Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(text[text.rindex(b")") :].split()[20])


def streams(record: pathlib.Path, keep: int) -> tuple[str, str]:
    """stdout and stderr so far, `keep` bytes of head and of tail as given to tes-step; "" where there is none."""
    return _stream(record, "stdout", keep), _stream(record, "stderr", keep)


def gap(left_out: int) -> str:
    """What stands between head and tail of a stream of which so many bytes are not kept."""
    return f"\n... {left_out} bytes left out ...\n" if left_out > 0 else ""


def _stream(record: pathlib.Path, name: str, keep: int) -> str:
    keep = min(keep, _KEEP_MAX)
    data = _read(record, name, _COUNT + 2 * keep)
    if data is None or len(data) < _COUNT:
        return ""
    total = int.from_bytes(data[:_COUNT], "little")
    head, ring = data[_COUNT : _COUNT + min(keep, total)], data[_COUNT + keep :]
    tail_bytes = min(max(total - keep, 0), len(ring))
    turn = (total - keep) % keep if tail_bytes and tail_bytes == keep else 0
    tail = ring[turn:tail_bytes] + ring[:turn]
    left_out = total - len(head) - len(tail)
    return (head + gap(left_out).encode() + tail).decode("utf-8", "replace")


def _numbers(record: pathlib.Path, name: str, count: int) -> list[int]:
    """The numbers of a one-line record; [] if there is no such record."""
    data = _read(record, name, _LINE_MAX)
    if data is None:
        return []
    if not re.fullmatch(rb"\d{1,19}( \d{1,19}){%d}\n" % (count - 1), data):
        raise _damaged(name)
    return [int(word) for word in data.split()]


def time_of(nanoseconds: int) -> datetime.datetime:
    """Since 1970. Microseconds are all that a datetime holds; integers all the way, since a float would invent some."""
    try:
        return datetime.datetime.fromtimestamp(0, datetime.UTC) + datetime.timedelta(microseconds=nanoseconds // 1000)
    except OverflowError as cause:
        raise _damaged("time") from cause


def _damaged(name: str) -> errors.EngineError:
    return errors.EngineError(f"the {name} record of the command is damaged", Code.ENGINE_ERROR)


def _open(record: pathlib.Path, name: str) -> int:
    """`FileNotFoundError`, or `errors.EngineError` for what is no file of ours."""
    try:
        # O_NONBLOCK: a named pipe in place of the file must not hold us
        descriptor = os.open(record / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except OSError as cause:
        raise _damaged(name) from cause
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _damaged(name)
    return descriptor


def _read(record: pathlib.Path, name: str, limit: int) -> bytes | None:
    """Up to `limit` bytes of a regular file, or None if there is no such file."""
    try:
        descriptor = _open(record, name)
    except FileNotFoundError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        return file.read(limit)
