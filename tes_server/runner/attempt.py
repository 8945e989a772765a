"""The directory of one attempt: where its plan, volume, records and report lie. The runner's whole memory.

| path | what | written by |
|---|---|---|
| plan.json | the Plan | whoever submits; durable before anything starts |
| volume/ | the task's files, container path P at volume/P | filer, executors |
| scans/N/ | volume and record of the scan of one of its images | engines, scanners |
| steps/N/ | the record of executor N (runner.records) | tes-step, engines |
| staged.json | stage-in is complete, and what it found out | interpreter |
| started | when the attempt began, RFC 3339 | interpreter |
| exits/N.json | how executor N ended, kept before its container is removed | interpreter |
| clean | no cell of it is left in the engine | interpreter |
| cancel | stop was asked for | whoever cancels |
| report.json | the Report: the attempt has ended | interpreter, durable |
"""

from __future__ import annotations

import contextlib
import datetime
import os
import pathlib

import msgspec

from tes_server.model.run import Report
from tes_server.plan.steps import Plan
from tes_server.runner.engine import Exit

BOOT = pathlib.Path("/proc/sys/kernel/random/boot_id")


class Staged(msgspec.Struct, frozen=True):
    """What is known once the inputs are in place: image -> digest or id, and lines for system_logs.

    `boot` tells in which life of the machine they were placed: they are not synced, and hold only for that one.
    """

    images: dict[str, str]
    notices: tuple[str, ...]
    boot: str = ""


def boot_id() -> str:
    """The kernel's name for the time since the machine was started; new after each restart."""
    return BOOT.read_text().strip()


class Attempt:
    """Paths and durable facts of one attempt below `directory` (`<data>/attempts/<task>-<attempt>`)."""

    def __init__(self, directory: pathlib.Path) -> None:
        self.directory = directory
        self.name = directory.name
        self.volume = directory / "volume"

    def create(self, plan: bytes) -> None:
        """Make the directory with its plan; idempotent. The plan is there whole or not at all."""
        for path in (self.directory, self.volume, self.directory / "steps", self.directory / "exits"):
            path.mkdir(mode=0o755, parents=True, exist_ok=True)
        write_durably(self.directory / "plan.json", plan)

    def plan(self) -> Plan | None:
        """The plan, or None where it was never completely written."""
        body = read(self.directory / "plan.json")
        return None if body is None else msgspec.json.decode(body, type=Plan)

    def record(self, index: int) -> pathlib.Path:
        """The directory that the engine gets for executor `index`."""
        return self.directory / "steps" / str(index)

    def scan(self, number: int) -> pathlib.Path:
        """The directory of one scan of the task's own images: its volume, and the record that the engine gets."""
        return self.directory / "scans" / str(number)

    def staged(self) -> Staged | None:
        """What stage-in found out, once it is complete."""
        body = read(self.directory / "staged.json")
        return None if body is None else msgspec.json.decode(body, type=Staged)

    def set_staged(self, staged: Staged) -> None:
        """Stage-in is complete."""
        _replace(self.directory / "staged.json", msgspec.json.encode(staged))

    def started(self, now: datetime.datetime) -> datetime.datetime:
        """When the attempt began: `now` at the first call, the same ever after, so that a restart does not extend max_runtime."""
        there = read(self.directory / "started")
        if there:
            return datetime.datetime.fromisoformat(there.decode())
        _replace(self.directory / "started", now.isoformat().encode())
        return now

    @property
    def clean(self) -> bool:
        """True once its interpreter removed every cell that it had begun."""
        return (self.directory / "clean").exists()

    def set_clean(self) -> None:
        """Nothing is left for the engine to remove. Not worth a failure: without the mark it is only asked once more."""
        with contextlib.suppress(OSError):
            (self.directory / "clean").touch()

    @property
    def canceled(self) -> bool:
        """True once stop was asked for."""
        return (self.directory / "cancel").exists()

    def set_canceled(self) -> None:
        """Stop was asked for; survives a restart."""
        if self.directory.exists():
            (self.directory / "cancel").touch()

    def exit(self, index: int) -> Exit | None:
        """How executor `index` ended, if that was kept."""
        body = read(self.directory / "exits" / f"{index}.json")
        return None if body is None else msgspec.json.decode(body, type=Exit)

    def keep_exit(self, index: int, ended: Exit) -> None:
        """Keep how executor `index` ended, before its container goes."""
        _replace(self.directory / "exits" / f"{index}.json", msgspec.json.encode(ended))

    def report(self) -> Report | None:
        """The report: not None = the attempt has ended."""
        body = read(self.directory / "report.json")
        return None if body is None else msgspec.json.decode(body, type=Report)

    def keep_report(self, report: Report) -> None:
        """The attempt has ended."""
        write_durably(self.directory / "report.json", msgspec.json.encode(report))


def read(path: pathlib.Path) -> bytes | None:
    """The content of a file of ours, None if there is none."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def write_durably(path: pathlib.Path, body: bytes) -> None:
    """Write a file so that after a crash it is there whole or not at all, and after the return it stays there."""
    _replace(path, body, sync=True)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _replace(path: pathlib.Path, body: bytes, *, sync: bool = False) -> None:
    temporary = path.with_name(f".{path.name}.new")
    with temporary.open("wb") as file:
        file.write(body)
        if sync:
            file.flush()
            os.fdatasync(file.fileno())
    temporary.replace(path)
