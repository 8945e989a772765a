"""What a TES server's answers mean for us: the end of a task, its exit code, its logs.

Reads leniently what servers of all versions send (missing fields, nulls, numbers as text) and must never fill in what
is not there. Printing uses the answer itself, not these structs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from tes_server import errors

ENDS = frozenset({"COMPLETE", "EXECUTOR_ERROR", "SYSTEM_ERROR", "CANCELED", "PREEMPTED"})
"""States that a task never leaves. PREEMPTED is among them: TES 1.1 has the task stopped, and some servers end there."""

EXIT_USAGE = 2  #: as click
EXIT_SYSTEM = 70  #: EX_SOFTWARE of sysexits.h: not the command's fault
EXIT_UNREACHABLE = 69  #: EX_UNAVAILABLE
EXIT_CANCELED = 130  #: what shells report after Ctrl-C
EXIT_TIMEOUT = 124  #: as timeout(1)

_SEVERITY = ("COMPLETE", "CANCELED", "EXECUTOR_ERROR", "PREEMPTED", "SYSTEM_ERROR")


class ExecutorLog(msgspec.Struct, frozen=True):
    """tesExecutorLog."""

    start_time: str | None = None
    end_time: str | None = None
    stdout: str | None = None
    stderr: str | None = None
    exit_code: int | None = None


class OutputLog(msgspec.Struct, frozen=True):
    """tesOutputFileLog."""

    url: str | None = None
    path: str | None = None
    size_bytes: int | None = None


class TaskLog(msgspec.Struct, frozen=True):
    """tesTaskLog: one attempt."""

    logs: list[ExecutorLog] | None = None
    start_time: str | None = None
    end_time: str | None = None
    outputs: list[OutputLog] | None = None
    system_logs: list[str] | None = None


class Executor(msgspec.Struct, frozen=True):
    """tesExecutor."""

    image: str | None = None
    command: list[str] | None = None


class Task(msgspec.Struct, frozen=True):
    """tesTask."""

    id: str = ""
    state: str | None = None
    name: str | None = None
    description: str | None = None
    creation_time: str | None = None
    tags: dict[str, str | None] | None = None
    executors: list[Executor] | None = None
    resources: dict[str, Any] | None = None
    logs: list[TaskLog] | None = None

    @property
    def ended(self) -> bool:
        """True if the state is final."""
        return self.state in ENDS

    @property
    def last_log(self) -> TaskLog:
        """The last attempt's log; an empty one where there is none yet."""
        return self.logs[-1] if self.logs else TaskLog()

    @property
    def exit_code(self) -> int:
        """What `tes` exits with for this task, which has ended."""
        match self.state:
            case "COMPLETE":
                return 0
            case "CANCELED":
                return EXIT_CANCELED
            case "EXECUTOR_ERROR":
                # The executor that failed is the last one: earlier codes may be ignored errors.
                codes = [log.exit_code for log in self.last_log.logs or [] if log.exit_code]
                return codes[-1] if codes and 1 <= codes[-1] <= 125 else 1
            case _:
                return EXIT_SYSTEM


def read(answer: Mapping[str, Any]) -> Task:
    """A task of an answer. Raises `errors.TesServerError` where it is none."""
    try:
        return msgspec.convert(answer, Task, strict=False)
    except msgspec.ValidationError as cause:
        raise errors.TesServerError(f"the server's answer is not a TES task: {cause}") from cause


def worst(tasks: Iterable[Task]) -> Task:
    """The ended task that decides the exit code of many: SYSTEM_ERROR before EXECUTOR_ERROR before CANCELED, then the first given."""
    return max(tasks, key=lambda task: _SEVERITY.index(task.state or "SYSTEM_ERROR"))
