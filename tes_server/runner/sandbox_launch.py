"""Starts one cell's sandbox: writes what it needs into the engine's directory of the cell, then spawns its supervisor.

Two tes-step processes: the outer one on the host, which is given paths of ours only, and the inner one in the sandbox,
which is given the task's words by descriptor. Nothing that a task says may reach bwrap or the outer one but as data, and
none of it a disk: an environment holds secrets.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import msgspec

from tes_server.plan.steps import MountKind
from tes_server.runner import bwrap, host, sandbox_mounts, underlay
from tes_server.runner.engine import Cell
from tes_server.runner.sandbox_source import Source

_GRACE = 10.0  # for a supervisor that gets TERM from somebody else than `Engine.stop`
_FASTER = 1 << 30  # bytes: a net for a process that grows faster than tes-step counts; much of what it holds it never touches
_NO_GRACE_OF_ITS_OWN = 2**31  # seconds


class Site(msgspec.Struct, frozen=True, kw_only=True):
    """What is the same for all cells. `ids`: see `userns.ids`.

    `filter`: the program of runner.seccomp. `processes`: how many a cell may have. `overlays`: the kernel makes them here.
    """

    step: pathlib.Path
    bwrap: bwrap.Program
    ids: tuple[int, int] | None
    network: bool
    filter: bytes
    processes: int
    overlays: bool


def launch(cell: Cell, own: pathlib.Path, lock: int, groups: Sequence[pathlib.Path], source: Source, site: Site) -> int:
    """Start `cell`; the pid of its supervisor, which keeps `lock`. `groups` are its cgroups, none = limit it without.

    Raises `errors.EngineError` (REJECTED) for mounts that cannot be, `OSError` for what this machine refuses.
    """
    stage = bwrap.Stage(site.ids is not None)
    with ExitStack() as opened:
        step = os.open(site.step, os.O_RDONLY | os.O_CLOEXEC)
        opened.callback(os.close, step)
        home = _home(cell, source)
        words = opened.enter_context(_memory(_strings(cell.step.argv)))
        environment = {**source.env, **({"HOME": home} if home else {}), **cell.step.env}
        variables = opened.enter_context(_memory(_strings([f"{name}={value}" for name, value in environment.items()])))
        calls = opened.enter_context(_memory(site.filter))
        arguments = opened.enter_context(_memory(_strings(_prepare(cell, own, stage, source, site, home, calls))))
        inherited = (lock, step, words, variables, calls, arguments, *source.held)
        report = max(inherited) + 1  # a number that is free in the child
        command = [str(site.step), "--record", str(cell.record), "--lock", str(lock), "--tail", str(cell.tail_bytes), "--grace", str(_GRACE)]
        # bwrap and the inner tes-step keep the lock and the image too: they are free when those are gone, whoever died first.
        for descriptor in inherited:
            command += ["--keep", str(descriptor)]
        command += ["--inner", str(report)]
        for group in groups:
            command += ["--cgroup", str(group / "cgroup.procs")]
        for index, path in enumerate(cell.step.copies):
            command += ["--move", str(own / "out" / str(index)), str(cell.volume.resolve()) + path]
        program = stage.program(site.bwrap)
        if site.ids is not None:
            command += ["--userns", str(site.ids[0]), str(site.ids[1])]
            for directory in (cell.volume, own / "layer", *([own / "out"] if cell.step.copies else [])):
                command += ["--own", str(directory)]
            for shown, name in stage.pairs:
                command += ["--stage", str(shown), name]
        command += ["--", program, "--args", str(arguments), "--", f"/proc/self/fd/{step}"]
        command += ["--report", str(report), "--tee", "--grace", str(_NO_GRACE_OF_ITS_OWN)]
        command += ["--argv-file", f"/proc/self/fd/{words}", "--env-file", f"/proc/self/fd/{variables}"]
        command += _inner(cell, source, site, limits=not groups)
        return _spawn(command, own / "log", inherited)


def _prepare(cell: Cell, own: pathlib.Path, stage: bwrap.Stage, source: Source, site: Site, home: str, calls: int) -> list[str]:
    """The cell's directories, and bwrap's options."""
    mounts = sandbox_mounts.binds(cell, source.realm(), stage.show, shows_host=source.shows_host)
    for name in (*(["out"] if cell.step.copies else []), "layer", "layer/upper", "layer/work"):
        (own / name).mkdir(mode=0o755, exist_ok=True)
    (own / "layer/upper").chmod(0o755)  # it is the sandbox's /
    shown = [stage.show(path, name) for path, name in source.layers]
    if site.overlays:
        root = bwrap.overlay(shown, stage.show(own / "layer", "layer"))
    else:
        root = _underlay(cell, source, shown, stage.show(own / "layer/upper", "upper"), [mount.place for mount in mounts])
    if source.shows_host:
        root += [*host.arguments(), "--dir", home]
    return bwrap.arguments(
        root=root,
        volume=stage.show(cell.volume, "volume"),
        mounts=mounts,
        results=stage.show(own / "out", "out") if cell.step.copies else "",
        shared_memory=cell.limits.ram_bytes,
        network=site.network,
        maps_range=site.ids is not None,
        user=(os.geteuid(), os.getegid()) if source.user is None else (source.user.uid, source.user.gid),
        filter_descriptor=calls,
    )


def _underlay(cell: Cell, source: Source, shown: Sequence[str], own: str, places: Sequence[str]) -> list[str]:
    realm = source.realm()
    over = {}
    for (layer, _), reached in zip(source.layers[1:], shown[1:], strict=True):
        over.update({f"/etc/{path.name}": f"{reached}/etc/{path.name}" for path in (layer / "etc").iterdir()})
    made = [realm.place(path).real for path in (*cell.step.copies, cell.step.workdir or source.workdir)]
    homes = [] if source.user is None else [realm.place(source.user.home).real]
    scratch = [place for place in dict.fromkeys([*homes, "/run", "/var/tmp"]) if place != "/"]  # noqa: S108 the sandbox's own
    return underlay.options(source.layers[0][0], shown[0], over, own, [*places, *made], scratch)


def _home(cell: Cell, source: Source) -> str:
    """The home that bwrap makes in a sandbox of the host; "" for an image, which has its own.

    Where a mount would hide it, that mount (writable too) serves instead.
    """
    if not source.shows_host:
        return ""
    home = host.home(os.geteuid())
    return next((mount.path for mount in cell.mounts if home.startswith(mount.path + "/")), home)


def _inner(cell: Cell, source: Source, site: Site, *, limits: bool) -> list[str]:
    """Options of the tes-step inside. What may be long comes by descriptor. `limits`: no cgroup does it."""
    step, command = cell.step, ["--alone"]
    for option, value in (("--workdir", step.workdir or source.workdir), ("--stdin", step.stdin), ("--stdout", step.stdout), ("--stderr", step.stderr)):
        if value:
            command += [option, value]
    for index, path in enumerate(step.copies):
        command += ["--copy", path, f"{bwrap.RESULTS}/{index}"]
    if site.ids is not None and source.user is not None:
        command += ["--user", str(source.user.uid), str(source.user.gid)]
        for group in source.user.groups:
            command += ["--group", str(group)]
    if site.ids is None:  # the files are our own, but we could not read what the task made unreadable
        for mount in cell.mounts:
            command += ["--open", mount.path] if mount.kind is MountKind.ROOT else []
    if limits:
        command += ["--rlimit-nproc", str(site.processes)]
        if cell.limits.ram_bytes:
            command += ["--memory", str(cell.limits.ram_bytes), "--rlimit-data", str(cell.limits.ram_bytes + _FASTER)]
    return command


@contextmanager
def _memory(content: bytes) -> Iterator[int]:
    """A file without a name; its descriptor, at the beginning."""
    descriptor = os.memfd_create("tes", os.MFD_CLOEXEC)
    try:
        done = 0
        while done < len(content):
            done += os.pwrite(descriptor, content[done:], done)
        yield descriptor
    finally:
        os.close(descriptor)


def _strings(texts: Sequence[str]) -> bytes:
    return b"".join(os.fsencode(text) + b"\0" for text in texts)


def _spawn(command: list[str], log: pathlib.Path, inherited: Sequence[int]) -> int:
    """In a session of its own, with no environment, and of our descriptors those `inherited`."""
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
        (os.POSIX_SPAWN_OPEN, 2, str(log), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600),
        *((os.POSIX_SPAWN_DUP2, descriptor, descriptor) for descriptor in inherited),  # onto itself: stays open over exec
    ]
    return os.posix_spawn(command[0], command, {}, file_actions=actions, setsid=True, setsigmask=[])
