"""A Podman service of the tests' own: its storage, state and settings are private, and nothing of it stays.

Run by root it is an ordinary Podman; run by anybody else it is a rootless one.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import resource
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator

SETTINGS = """\
[containers]
default_ulimits = [{ulimits}]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
lock_type = "file"
"""


GROUP = 23456
"""May use root's service, as the group docker may use Docker; nobody is in it by accident."""


class PodmanService:
    """`url` answers while it runs. `registry` is a registry that it takes without TLS."""

    def __init__(self, home: pathlib.Path, registry: str) -> None:
        self.home = home
        self.socket = home / "podman.sock"
        self.url = f"unix://{self.socket}"
        (home / "containers.conf").write_text(SETTINGS.format(ulimits=", ".join(_ulimits())))
        (home / "registries.conf").write_text(f'unqualified-search-registries = []\n[[registry]]\nlocation = "{registry}"\ninsecure = true\n')
        (home / "policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
        self._environment = {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": str(home),  # a rootless Podman reads its own settings there, and whose ids it may use from /etc/subuid
            "XDG_RUNTIME_DIR": str(home),
            "CONTAINERS_CONF": str(home / "containers.conf"),
            "CONTAINERS_REGISTRIES_CONF": str(home / "registries.conf"),
        }
        self._command = ["podman", "--root", str(home / "root"), "--runroot", str(home / "run"), "--tmpdir", str(home / "tmp")]
        if os.geteuid() == 0:
            # What it mounts (its storage, network namespaces) goes with its own mount namespace.
            self._command = ["unshare", "--mount", "--propagation", "slave", *self._command]
        self._process: subprocess.Popen[bytes] | None = None

    def load(self, archive: pathlib.Path) -> None:
        """Images as `docker save` writes them."""
        self._run("load", "--quiet", "--input", str(archive))

    def start(self) -> None:
        with (self.home / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*self._command, "system", "service", "--time", "0", self.url],
                env=self._environment,
                cwd=self.home,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + 30
        while not self.socket.exists():
            assert self._process.poll() is None, self.log()
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.02)
        if os.geteuid() == 0:
            os.chown(self.socket, -1, GROUP)
            self.socket.chmod(0o660)
            self.home.chmod(0o711)

    def stop(self) -> None:
        """Its end and that of all its containers."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(30)
        self._run("rm", "--all", "--force", "--time", "0")
        pause = self.home / "libpod" / "tmp" / "pause.pid"  # holds a rootless Podman's user namespace
        if not pause.exists():
            pause = self.home / "tmp" / "pause.pid"
        if pause.exists():
            self._run("unshare", "rm", "-rf", str(self.home / "root"), str(self.home / "run"))
            os.kill(int(pause.read_text()), signal.SIGKILL)

    def log(self) -> str:
        return (self.home / "log").read_text(errors="replace")

    def _run(self, *arguments: str) -> None:
        done = subprocess.run([*self._command, *arguments], env=self._environment, cwd=self.home, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


@contextlib.contextmanager
def running(archives: Iterable[pathlib.Path], registry: str) -> Iterator[PodmanService]:
    """A service with the images of these archives. Its sockets need a short path."""
    home = pathlib.Path(tempfile.mkdtemp(prefix="tes-podman."))
    service = PodmanService(home, registry)
    try:
        for archive in archives:
            service.load(archive)
        service.start()
        yield service
    finally:
        try:
            service.stop()
        finally:
            shutil.rmtree(home)


def _ulimits() -> Iterator[str]:
    """Podman's own are more than a user without CAP_SYS_RESOURCE may set."""
    for name, number, enough in (("nofile", resource.RLIMIT_NOFILE, 1024), ("nproc", resource.RLIMIT_NPROC, 4096)):
        most = resource.getrlimit(number)[1]
        limit = enough if most == resource.RLIM_INFINITY else min(enough, most)
        yield f'"{name}={limit}:{limit}"'
