"""Control groups, version 1 and 2: one group for each cell that holds its memory, cores and number of processes.

Groups are made directly below the server's own group (or below another that it may write to), so that none is left when
the last cell is gone. This module must never move a process that is not a cell's own, nor the server itself.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import signal
import time
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from tes_server import errors
from tes_server.plan.steps import Limits
from tes_server.telemetry import Code

_PERIOD = 100_000  # microseconds in which the share of cores is counted: the kernel's default, with which every group begins
_CONTROLLERS = ("memory", "cpu", "pids")
_REMOVE_SECONDS = 10.0  # killed processes that write to a slow disk need a while to go


class Groups(msgspec.Struct, frozen=True):
    """Where groups can be made: a directory for each controller (v1), or the same one for all (v2)."""

    version: int
    bases: Mapping[str, pathlib.Path]

    @property
    def words(self) -> str:
        """What holds, for people."""
        names = {"memory": "memory", "cpu": "cores", "pids": "processes"}
        return f"{', '.join(word for name, word in names.items() if name in self.bases)} limited by cgroups v{self.version}"

    def places(self, name: str) -> list[pathlib.Path]:
        """The groups of a cell, made or not."""
        return [base / name for base in dict.fromkeys(self.bases.values())]

    def make(self, name: str, limits: Limits, processes: int) -> list[pathlib.Path]:
        """The groups of a cell, limits set. Idempotent. Raises `errors.EngineError`."""
        directories = self.places(name)
        try:
            for directory in directories:
                directory.mkdir(exist_ok=True)
            for controller, base in self.bases.items():
                for file, value in _settings(self.version, controller, limits, processes):
                    _put(base / name / file, value)
        except OSError as cause:
            raise errors.EngineError(f"a cgroup cannot be made: {cause.strerror}", Code.ENGINE_ERROR, transient=True) from cause
        return directories


def find() -> Groups | None:
    """Where this process may make groups, tried with a real one; None if nowhere."""
    own = {controllers: path for _, controllers, path in (line.split(":", 2) for line in _lines("/proc/self/cgroup"))}
    mounts = list(_mounts())
    first: dict[str, pathlib.Path] = {}
    for kind, options, mount, top in mounts:
        for controller in _CONTROLLERS if kind == "cgroup" else ():
            if controller in options:
                path = next((path for names, path in own.items() if controller in names.split(",")), "/")
                base = _writable([_below(mount, top, path), mount])
                if base is not None:
                    first[controller] = base
    if "memory" in first:
        return Groups(1, first)
    for kind, _, mount, top in mounts:
        if kind == "cgroup2":
            here = _below(mount, top, own.get("", "/"))
            # The parent: with systemd's DelegateSubgroup= the service itself sits in a group below the one that is delegated to it.
            base = _writable([directory for directory in (here, here.parent, mount) if directory.is_relative_to(mount) and _enabled(directory)])
            if base is not None:
                return Groups(2, dict.fromkeys(_CONTROLLERS, base))
    return None


def out_of_memory(groups: Sequence[pathlib.Path]) -> bool:
    """The kernel killed a process of the cell for memory. Its groups are its own, so their counters began at 0."""
    for directory in groups:
        for file in ("memory.events", "memory.oom_control"):
            for line in _lines(directory / file):
                name, _, count = line.partition(" ")
                if name == "oom_kill" and int(count) > 0:
                    return True
    return False


def remove(groups: Sequence[pathlib.Path]) -> None:
    """Kill what is left in the groups and remove them. Idempotent. Raises `errors.EngineError` if something will not die."""
    until = time.monotonic() + _REMOVE_SECONDS
    for directory in groups:
        while True:
            try:
                directory.rmdir()
            except FileNotFoundError:
                pass
            except OSError as cause:
                if time.monotonic() > until:
                    raise errors.EngineError(f"processes of the task do not end: {cause.strerror}", Code.ENGINE_ERROR, transient=True) from cause
                for pid in _lines(directory / "cgroup.procs"):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(int(pid), signal.SIGKILL)
                time.sleep(0.005)  # the kernel gives no sign when a killed process has left its group
                continue
            break


def _settings(version: int, controller: str, limits: Limits, processes: int) -> Iterator[tuple[str, str]]:
    """Files and what to write; those that a kernel may lack are marked with `?`."""
    quota = str(max(1000, int(limits.cpus * _PERIOD)))
    if controller == "memory" and limits.ram_bytes:
        if version == 1:
            yield "memory.limit_in_bytes", str(limits.ram_bytes)
            yield "memory.memsw.limit_in_bytes?", str(limits.ram_bytes)
        else:
            yield "memory.max", str(limits.ram_bytes)
            yield "memory.swap.max?", "0"
    if controller == "cpu" and limits.cpus:
        yield ("cpu.cfs_quota_us", quota) if version == 1 else ("cpu.max", f"{quota} {_PERIOD}")
    if controller == "pids":
        yield "pids.max", str(processes)


def _put(file: pathlib.Path, value: str) -> None:
    path = str(file)
    optional = path.endswith("?")
    try:
        descriptor = os.open(path.rstrip("?"), os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC | (0 if optional else os.O_CREAT))
    except FileNotFoundError:
        if optional:
            return
        raise
    try:
        os.write(descriptor, value.encode())
    finally:
        os.close(descriptor)


def _writable(candidates: Sequence[pathlib.Path]) -> pathlib.Path | None:
    for directory in candidates:
        probe = directory / f"tes-probe-{os.getpid()}-{time.monotonic_ns()}"
        try:
            probe.mkdir()
            probe.rmdir()
        except OSError:
            continue
        return directory
    return None


def _enabled(directory: pathlib.Path) -> bool:
    """Version 2: groups below have our controllers. Refused by the kernel where the directory itself holds processes."""
    control = directory / "cgroup.subtree_control"
    try:
        if not set(_CONTROLLERS) <= set(control.read_text().split()):
            control.write_text(" ".join(f"+{name}" for name in _CONTROLLERS))
    except OSError:
        return False
    return True


def _below(mount: pathlib.Path, top: str, path: str) -> pathlib.Path:
    """The directory of a group as /proc/self/cgroup names it, on a mount that shows the hierarchy from `top` on."""
    inside = os.path.relpath(path, top)
    return mount if inside == "." or inside.startswith("..") else mount / inside


def _mounts() -> Iterator[tuple[str, list[str], pathlib.Path, str]]:
    """Control group mounts: file system type, its options, mount point, its top in the hierarchy."""
    for line in _lines("/proc/self/mountinfo"):
        left, _, right = line.partition(" - ")
        kind, _, options = right.split(" ", 2)
        if kind in {"cgroup", "cgroup2"}:
            fields = left.split()
            yield kind, options.split(","), pathlib.Path(fields[4]), fields[3]


def _lines(path: str | pathlib.Path) -> list[str]:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return []
    parts = []
    with contextlib.suppress(OSError):  # a group that goes meanwhile
        while part := os.read(descriptor, 1 << 16):
            parts.append(part)
    os.close(descriptor)
    return b"".join(parts).decode().splitlines()
