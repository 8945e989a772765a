"""What the engine contract works with: cells over a volume of their own, commands held at a gate, patience.

Scripts run under `/bin/sh` and use small programs only, so that they do in a busybox image and on a host alike.
"""

from __future__ import annotations

import itertools
import os
import pathlib
import time
from collections.abc import Callable
from typing import Any

from tes_server.plan.steps import Execute, Limits, Mount
from tes_server.runner.engine import Cell, Engine, Exit

PATIENCE = 30.0  # seconds; far more than any of these takes on a busy machine
ROOTS = (Mount("/tmp"), Mount("/work"))
LIMITS = Limits(cpus=1.0, ram_bytes=256 << 20)
NUMBERS = itertools.count()


def until(condition: Callable[[], Any], what: str) -> None:
    """Poll for what other processes do, as fast as is polite; fail after PATIENCE."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.01)


class Gate:
    """A named pipe in the task's volume that holds a command (`read line < /work/gate`) until the test opens it."""

    def __init__(self, path: pathlib.Path) -> None:
        os.mkfifo(path)
        path.chmod(0o666)
        self._pipe = os.open(path, os.O_RDWR)  # read-write: opening never waits for the other side

    def open(self) -> None:
        os.write(self._pipe, b"go\n")

    def close(self) -> None:
        os.close(self._pipe)


class Lab:
    """Makes cells over one volume, runs them, and leaves nothing behind."""

    def __init__(self, engine: Engine, image: str, home: pathlib.Path) -> None:
        self.engine = engine
        self.image = image
        self.home = home
        self.volume = self.new_volume("volume")
        self.work = self.volume / "work"
        self._cells: list[Cell] = []
        self._gates: list[Gate] = []

    def new_volume(self, name: str) -> pathlib.Path:
        """A volume with the directories of ROOTS, as stage-in makes them."""
        volume = self.home / name
        for path in (volume, volume / "tmp", volume / "work"):
            path.mkdir(parents=True)
            path.chmod(0o777)
        return volume

    def cell(
        self,
        *argv: str,
        mounts: tuple[Mount, ...] = ROOTS,
        limits: Limits = LIMITS,
        volume: pathlib.Path | None = None,
        tail_bytes: int = 10240,
        **step: Any,
    ) -> Cell:
        number = next(NUMBERS)
        made = Cell(
            name=f"contract{os.getpid()}-1-{number}",
            step=Execute(index=0, image=self.image, argv=argv, **step),
            mounts=mounts,
            limits=limits,
            volume=volume or self.volume,
            record=self.home / "steps" / str(number),
            tail_bytes=tail_bytes,
        )
        made.record.mkdir(parents=True)
        self._cells.append(made)
        return made

    def sh(self, script: str, *words: str, **other: Any) -> Cell:
        return self.cell("/bin/sh", "-c", script, "sh", *words, **other)

    def gate(self) -> Gate:
        self._gates.append(Gate(self.work / "gate"))
        return self._gates[-1]

    def run(self, cell: Cell) -> Exit:
        self.engine.start(cell)
        ended = self.engine.wait(cell)
        assert ended is not None, "LOST"
        return ended

    def check(self, script: str, *words: str, **other: Any) -> str:
        """Run a script that must end well; its stdout."""
        cell = self.sh(script, *words, **other)
        ended = self.run(cell)
        out, err = self.engine.streams(cell)
        assert ended.code == 0, (ended, out, err)
        return out

    def blocked(self, before: str = ":", after: str = ":") -> tuple[Cell, Gate]:
        """A started cell that runs `before`, waits at the gate, then runs `after`."""
        gate = self.gate()
        cell = self.sh(f"{before}; : > /work/ready; read line < /work/gate; {after}")
        self.engine.start(cell)
        until((self.work / "ready").exists, "the command begins")
        return cell, gate

    def clear(self) -> None:
        for cell in self._cells:
            self.engine.remove(cell)
        for gate in self._gates:
            gate.close()
        self.engine.wipe(self.home)
