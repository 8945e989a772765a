"""Starts one cell's sandbox: writes what it needs into the engine's directory of the cell, then spawns its supervisor.

Two tes-step processes: the outer one on the host, which is given paths of ours only, and the inner one in the sandbox,
which is given the task's words by file. Nothing that a task says may reach bwrap or the outer one but as data.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence

import msgspec

from tes_server import errors
from tes_server.plan.steps import Mount, MountKind
from tes_server.runner import bwrap, host, volume
from tes_server.runner.engine import Cell
from tes_server.telemetry import Code

IDS = (200_000, 65_536)  # first id and number of ids of tasks of a root server: above every ordinary user's
_GRACE = 10.0  # for a supervisor that gets TERM from somebody else than `Engine.stop`
_NO_GRACE_OF_ITS_OWN = 2**31  # seconds


class Site(msgspec.Struct, frozen=True, kw_only=True):
    """What is the same for all cells. `root`: the server is root, so that tasks get a range of ids of their own."""

    step: pathlib.Path
    bwrap: bwrap.Program
    root: bool
    network: bool


def launch(cell: Cell, own: pathlib.Path, lock: int, groups: Sequence[pathlib.Path], site: Site) -> int:
    """Start `cell`; the pid of its supervisor, which keeps `lock`. `groups` are its cgroups, none = limit each process.

    Raises `errors.EngineError` (REJECTED) for mounts that cannot be, `OSError` for what this machine refuses.
    """
    stage = bwrap.Stage(site.root)
    options = _prepare(cell, own, stage, site)
    program = stage.program(site.bwrap)
    write_strings(own / "bwrap", options)
    arguments = os.open(own / "bwrap", os.O_RDONLY | os.O_CLOEXEC)
    try:
        report = max(lock, arguments) + 1  # a number that is free in the child
        command = [str(site.step), "--record", str(cell.record), "--lock", str(lock), "--tail", str(cell.tail_bytes), "--grace", str(_GRACE)]
        # bwrap and the inner tes-step keep the lock too: it is free when they are gone, whoever died first.
        command += ["--keep", str(lock), "--keep", str(arguments), "--inner", str(report)]
        for group in groups:
            command += ["--cgroup", str(group / "cgroup.procs")]
        for index, path in enumerate(cell.step.copies):
            command += ["--move", str(own / "out" / str(index)), str(cell.volume.resolve()) + path]
        if site.root:
            command += ["--userns", str(IDS[0]), str(IDS[1])]
            for directory in (cell.volume, own / "root", own / "out"):
                command += ["--own", str(directory)]
            for source, name in stage.pairs:
                command += ["--stage", str(source), name]
        command += ["--", program, "--args", str(arguments), "--", *_inner(cell, report, opens=not site.root, limits_processes=not groups)]
        return _spawn(command, own / "log", (lock, arguments))
    finally:
        os.close(arguments)


def write_strings(file: pathlib.Path, strings: Sequence[str], owner: int = -1) -> None:
    """NUL-terminated strings, readable by `owner` (-1: us) and nobody else: an environment holds secrets."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as out:
        out.write(b"".join(os.fsencode(text) + b"\0" for text in strings))
        os.fchown(descriptor, owner, owner)


def _prepare(cell: Cell, own: pathlib.Path, stage: bwrap.Stage, site: Site) -> list[str]:
    """The cell's files, and bwrap's options."""
    mounts = [(mount, _source(cell, mount, stage)) for mount in sorted(cell.mounts, key=lambda mount: mount.path)]
    for name in ("root", "out"):
        (own / name).mkdir(exist_ok=True)
    home = _home(cell, 0 if site.root else os.getuid())
    environment = {"PATH": host.PATH, "HOME": home, **cell.step.env}
    owner = IDS[0] if site.root else -1
    write_strings(own / "argv", cell.step.argv, owner)
    write_strings(own / "env", [f"{name}={value}" for name, value in environment.items()], owner)
    return bwrap.arguments(
        root=stage.show(own / "root", "root"),
        files=[(stage.show(path, name), name) for path, name in ((site.step, "tes-step"), (own / "argv", "argv"), (own / "env", "env"))],
        results=stage.show(own / "out", "out") if cell.step.copies else "",
        volume=stage.show(cell.volume, "volume"),
        mounts=mounts,
        home=home,
        network=site.network,
        maps_range=site.root,
    )


def _source(cell: Cell, mount: Mount, stage: bwrap.Stage) -> str:
    """The host path of a LIVE mount, as bwrap reaches it; "" for what lies in the volume, which is made sure of."""
    if host.covers(mount.path):
        raise errors.EngineError(f"{mount.path}: the image `host` is read-only there; let the task use another path", Code.REJECTED)
    live = mount.kind is MountKind.LIVE
    # A mount inside of a ROOT hangs at a place in the volume, which bwrap would make through any link that it meets.
    inside = any(mount.path.startswith(other.path + "/") for other in cell.mounts if other.kind is MountKind.ROOT)
    if inside or not live:
        volume.place(cell.volume, mount.path, directory=mount.kind is not MountKind.FILE)
    if not live:
        return ""
    source = pathlib.Path(mount.source)
    if source.resolve() != source or not source.is_dir():
        raise errors.EngineError(f"{source} is no directory, or is reached by a link: it is not mounted", Code.REJECTED)
    return stage.show(source, f"live{len(stage.pairs)}")


def _home(cell: Cell, uid: int) -> str:
    """bwrap makes it in the throw-away root. Where a mount would hide it, that mount (writable too) serves instead."""
    home = host.home(uid)
    return next((mount.path for mount in cell.mounts if home.startswith(mount.path + "/")), home)


def _inner(cell: Cell, report: int, *, opens: bool, limits_processes: bool) -> list[str]:
    """The command line inside the sandbox. What may be long comes by file."""
    step = cell.step
    command = [f"{bwrap.INSIDE}/tes-step", "--report", str(report), "--tee", "--grace", str(_NO_GRACE_OF_ITS_OWN)]
    command += ["--argv-file", f"{bwrap.INSIDE}/argv", "--env-file", f"{bwrap.INSIDE}/env"]
    for option, value in (("--workdir", step.workdir), ("--stdin", step.stdin), ("--stdout", step.stdout), ("--stderr", step.stderr)):
        if value:
            command += [option, value]
    for index, path in enumerate(step.copies):
        command += ["--copy", path, f"{bwrap.INSIDE}/out/{index}"]
    if opens:  # the files are our own, but we could not read what the task made unreadable
        for mount in cell.mounts:
            command += ["--open", mount.path] if mount.kind is MountKind.ROOT else []
    if limits_processes and cell.limits.ram_bytes:
        command += ["--rlimit-data", str(cell.limits.ram_bytes)]
    return command


def _spawn(command: list[str], log: pathlib.Path, inherited: Sequence[int]) -> int:
    """In a session of its own, with no environment, and of our descriptors those `inherited`."""
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
        (os.POSIX_SPAWN_OPEN, 2, str(log), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600),
        *((os.POSIX_SPAWN_DUP2, descriptor, descriptor) for descriptor in inherited),  # onto itself: stays open over exec
    ]
    return os.posix_spawn(command[0], command, {}, file_actions=actions, setsid=True, setsigmask=[])
