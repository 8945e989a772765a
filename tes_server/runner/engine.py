"""The protocol of a container engine: how the interpreter starts, awaits and stops one executor.

An executor outlives the process that started it. All methods take a `Cell` and may be called again after a crash of the
caller: `start` adopts what is there, `wait` waits for it. An engine must never know of tasks, stores or the API.
Implementations are held to `tests/contract/engine_contract.py`.
"""

from __future__ import annotations

import datetime
import enum
import pathlib
from typing import Protocol

import msgspec

from tes_server.plan.steps import Execute, Limits, Mount


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """One executor of one attempt, and where its files are on this machine.

    `name` is `<task>-<attempt>-<index>`, unique on the machine. `volume` holds the task's files (container path P at
    `volume` + P, see plan.steps). `record` is this executor's own directory, which only the engine and tes-step write.
    """

    name: str
    step: Execute
    mounts: tuple[Mount, ...]
    limits: Limits
    volume: pathlib.Path
    record: pathlib.Path
    image: str = ""
    """what `Engine.prepare` returned for `step.image`, so that this is what runs; "" = what that name means now"""
    labels: dict[str, str] = {}
    secret: bool = False
    """`step.env` holds secrets, which may lie on no disk and be in no answer of the engine's"""
    tail_bytes: int = 10240
    """how many bytes of head, and as many of tail, are kept of stdout and of stderr"""


class CellState(enum.StrEnum):
    """What is known of a cell."""

    ABSENT = "ABSENT"  #: the command was never started: safe to start
    RUNNING = "RUNNING"
    ENDED = "ENDED"  #: its record is complete
    LOST = "LOST"  #: it was started and is not there any more, without a record


class Exit(msgspec.Struct, frozen=True, kw_only=True):
    """How an executor ended. `code` is 128 + signal where a signal ended it, 127 / 126 where argv[0] was not found / not runnable."""

    code: int
    signal: int = 0
    oom: bool = False
    """killed for memory"""
    start_time: datetime.datetime
    end_time: datetime.datetime


class Engine(Protocol):
    """Thread-safe. Failures are `errors.EngineError` (code IMAGE_..., ENGINE_...)."""

    name: str

    def check(self) -> str:
        """One line on what answers here (version, mode). Raises `errors.EngineError` with what to do where it cannot work."""

    def prepare(self, image: str) -> str:
        """Make sure that the image is on this machine; returns its digest or id. EngineError IMAGE_NOT_FOUND, IMAGE_DENIED, ..."""

    def state(self, cell: Cell) -> CellState:
        """A look, without waiting."""

    def start(self, cell: Cell) -> None:
        """Start the command, or do nothing if it was started before. Durable: after a crash `state` tells whether it started."""

    def wait(self, cell: Cell) -> Exit | None:
        """Wait for the end. None = LOST. Returns at once if it has ended."""

    def stop(self, cell: Cell, grace: float) -> None:
        """TERM to the command, KILL after `grace` seconds. Idempotent; returns without waiting for the end."""

    def streams(self, cell: Cell) -> tuple[str, str]:
        """stdout and stderr so far: head and tail, saying how much was left out between them."""

    def remove(self, cell: Cell) -> None:
        """Remove what `start` made (a container, a cgroup), killing it if it runs. Idempotent. Leaves `volume` and `record`."""

    def wipe(self, path: pathlib.Path) -> None:
        """Delete a directory tree of an attempt, whoever owns the files in it. Idempotent."""

    def survey(self) -> list[str]:
        """Names of the cells that are there on this machine for this server, running or not."""
