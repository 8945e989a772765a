"""The sandbox engine: executors as bubblewrap sandboxes over unpacked images, or over this machine's own programs, without a daemon.

Each cell has a detached supervisor (tes-step), which holds the lock of its record for life; it starts bwrap, and in that
an inner tes-step as the first process, which opens the task's files where they cannot lead outside. A root server maps a
range of ids, so that the task is never the host's root. What the task says (argv, environment, paths) reaches only the
inner tes-step, by descriptors. The engine's own files of a cell are at `<data>/sandbox/<name>`, which is there from before the
start until `remove`; that is what `survey` lists.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pathlib
import signal
import subprocess
import tempfile
import threading
from collections.abc import Sequence

import msgspec

from tes_server import errors, step
from tes_server.plan.steps import Execute, Limits
from tes_server.runner import bwrap, cgroups, host, records, sandbox_launch, sandbox_source, seccomp, small_tree, underlay, userns
from tes_server.runner.engine import Cell, CellState, Exit
from tes_server.runner.host_tree import HostTree
from tes_server.runner.images import Images, Options
from tes_server.telemetry import Code

PROCESSES = 4096
"""Processes and threads of one cell: more than any sane program has, and far below the kernel's pid_max: a fork bomb leaves the machine alive."""

_WIPE_TRIES = 3  # killed processes may write for an instant longer


def cgroup_mark(cells: pathlib.Path) -> str:
    """What the cgroups of a server's cells end with: another server here may have a task of the same id, as ids come from clients' Idempotency-Key."""
    return hashlib.sha256(bytes(cells)).hexdigest()[:8]


def limits_in_words(groups: cgroups.Groups | None) -> str:
    """Which limits of a task hold, by these cgroups or without any."""
    if groups is not None:
        return groups.words
    return "memory counted and processes limited without cgroups, cores not limited (no cgroup is writable: run as root, or under systemd with Delegate=yes)"


def network_in_words(network: bool) -> str:
    """What the setting sandbox.network means for tasks."""
    return "tasks share this machine's network" if network else "tasks have no network"


class SandboxEngine:
    """Runs images, and the image `host` where `allow_host`, in bubblewrap.

    `data` is the server's data directory; `network`: tasks share this machine's; `processes`: how many a cell may have;
    `images`: those of this data directory (None = with the usual options).
    """

    name = "sandbox"

    def __init__(self, *, data: pathlib.Path, allow_host: bool, network: bool, processes: int = PROCESSES, images: Images | None = None) -> None:
        data.mkdir(parents=True, exist_ok=True)
        self._cells = data.resolve() / "sandbox"  # resolved: tes-step follows no link, not even an honest one
        self._cells.mkdir(mode=0o700, exist_ok=True)
        self._groups = cgroups.find()
        ids = userns.ids()
        self._step, program = step.path(), bwrap.find()
        self._site = sandbox_launch.Site(
            step=self._step,
            bwrap=program,
            ids=ids,
            network=network,
            filter=seccomp.program(one_id=ids is None),
            processes=processes,
            overlays=self._overlays(program),
        )
        tree = HostTree(self._cells / ".host", ids[0] if ids else -1)
        self._sources = sandbox_source.Sources(images or Images(data / "images", Options(), ids=ids), tree, allow_host=allow_host, ids=ids[1] if ids else 1)
        self._children: dict[str, int] = {}  # supervisors that are ours to reap, by cell
        self._lock = threading.Lock()

    @property
    def limits(self) -> str:
        """Which limits of a task hold on this machine, in words."""
        return limits_in_words(self._groups)

    def check(self) -> str:
        """See `Engine.check`: runs `true` of this machine in a sandbox."""
        version = subprocess.run([self._site.bwrap.path, "--version"], capture_output=True, text=True, check=False).stdout.strip()
        with tempfile.TemporaryDirectory(dir=self._cells, prefix=".check-") as scratch:
            place = pathlib.Path(scratch)
            (place / "volume").mkdir()
            (place / "record").mkdir()
            trial = Cell(
                name=f"{place.name}-cell",
                step=Execute(index=0, image=host.IMAGE, argv=("true",)),
                mounts=(),
                limits=Limits(cpus=1, ram_bytes=1 << 28),
                volume=place / "volume",
                record=place / "record",
            )
            try:
                self.start(trial)
                end = self.wait(trial)
            except errors.EngineError as cause:
                raise errors.EngineError(f"{cause.public}{userns.advice()}", cause.code) from cause
            finally:
                self.remove(trial)
        if end is None or end.code != 0:
            raise errors.EngineError(f"`true` did not work in a sandbox: {end}", Code.ENGINE_ERROR)
        mode = f"tasks as ids {self._site.ids[0]} and up" if self._site.ids else "tasks as this user"
        root = "" if self._site.overlays else "; images are read-only to their tasks (no overlay can be made: put `data` on a local disk; Linux 5.11 or newer)"
        return f"{version}, {mode}; {self.limits}; {network_in_words(self._site.network)}{root}"

    def prepare(self, image: str) -> str:
        """See `Engine.prepare`."""
        return self._sources.prepare(image)

    def state(self, cell: Cell) -> CellState:
        """See `Engine.state`."""
        return records.state(cell.record)

    def start(self, cell: Cell) -> None:
        """See `Engine.start`. The order makes it durable: own directory, lock, a look at the records, files, supervisor."""
        if records.state(cell.record) is not CellState.ABSENT:
            return
        own = self._cells / cell.name
        own.mkdir(mode=0o700, exist_ok=True)
        lock = records.take_lock(cell.record)
        if lock is None:
            return
        try:
            if records.start(cell.record) is None:
                with self._sources.hold(cell.image or cell.step.image) as source:
                    pid = sandbox_launch.launch(cell, own, lock, self._make_groups(cell, own), source, self._site)
                with self._lock:
                    self._children[cell.name] = pid
        except OSError as cause:
            raise errors.EngineError(f"the sandbox cannot be made: {cause}", Code.ENGINE_ERROR, transient=True) from cause
        finally:
            os.close(lock)  # the supervisor has its own by now

    def wait(self, cell: Cell) -> Exit | None:
        """See `Engine.wait`."""
        records.await_end(cell.record)
        self._reap(cell.name)
        end = records.ended(cell.record)
        if records.failed(cell.record) or (end is None and records.start(cell.record) is None):
            words = (records.streams(cell.record, cell.tail_bytes)[1] + self._log(cell)).strip()
            raise errors.EngineError(f"the sandbox could not start the command: {words or 'no word from its supervisor'}", Code.ENGINE_ERROR, transient=True)
        if end is None:
            return None
        oom = self._out_of_memory(cell)
        return None if records.cut(cell.record) and not oom else msgspec.structs.replace(end, oom=oom)

    def stop(self, cell: Cell, grace: float) -> None:
        """See `Engine.stop`."""
        if records.state(cell.record) is CellState.RUNNING:
            records.ask_to_stop(cell.record, grace)

    def streams(self, cell: Cell) -> tuple[str, str]:
        """See `Engine.streams`."""
        return records.streams(cell.record, cell.tail_bytes)

    def remove(self, cell: Cell) -> None:
        """See `Engine.remove`."""
        own = self._cells / cell.name
        if records.locked(cell.record):
            records.ask_to_stop(cell.record, 0, signal.SIGKILL)  # no record of an end: it had none of its own
            records.await_end(cell.record)
        self._reap(cell.name)
        self._out_of_memory(cell)  # kept, before its counter goes
        cgroups.remove(self._groups_of(own))
        self.wipe(own)

    def wipe(self, path: pathlib.Path) -> None:
        """See `Engine.wipe`. What is more than a few files by tes-step, which follows no link and takes any depth."""
        if small_tree.remove(path):
            return
        words = ""
        for _ in range(_WIPE_TRIES):
            if not path.exists():
                return
            words = subprocess.run([self._step, "--wipe", path], capture_output=True, text=True, check=False).stderr.strip()
            with contextlib.suppress(OSError):  # tried again
                path.rmdir()
        if path.exists():
            raise errors.EngineError(f"{path.name} cannot be deleted: {words}", Code.ENGINE_ERROR, transient=True)

    def _overlays(self, program: bwrap.Program) -> bool:
        """Tried once: it depends on the kernel and on the file system of our directory."""
        place = pathlib.Path(tempfile.mkdtemp(dir=self._cells, prefix=".overlay-"))
        try:
            return underlay.overlay_works(program.path, self._step, place)
        finally:
            self.wipe(place)

    def survey(self) -> list[str]:
        """See `Engine.survey`: started, or about to be, and not removed."""
        return sorted(entry.name for entry in self._cells.iterdir() if not entry.name.startswith("."))

    def _make_groups(self, cell: Cell, own: pathlib.Path) -> Sequence[pathlib.Path]:
        """The list is written first: after a crash `remove` knows what may be there, from whichever group the server then runs in."""
        if self._groups is None:
            return []
        name = f"tes-{cell.name}-{cgroup_mark(self._cells)}"
        (own / "groups").write_text("\n".join(map(str, self._groups.places(name))))
        return self._groups.make(name, cell.limits, self._site.processes)

    def _groups_of(self, own: pathlib.Path) -> list[pathlib.Path]:
        try:
            return [pathlib.Path(line) for line in (own / "groups").read_text().splitlines()]
        except FileNotFoundError:
            return []

    def _reap(self, name: str) -> None:
        """Take the supervisor's exit, if it was ours to start; its lock is free, so it is at its end."""
        with self._lock:
            pid = self._children.pop(name, None)
        if pid is not None:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)

    def _out_of_memory(self, cell: Cell) -> bool:
        """From the cell's own group while it is there, then from a mark in the record."""
        mark = cell.record / "oom"
        if not cgroups.out_of_memory(self._groups_of(self._cells / cell.name)):
            return mark.exists()
        with contextlib.suppress(FileNotFoundError):  # the record is gone: nobody will ask again
            mark.touch()
        return True

    def _log(self, cell: Cell) -> str:
        with contextlib.suppress(OSError):
            return (self._cells / cell.name / "log").read_text(errors="replace")[:4096]
        return ""
