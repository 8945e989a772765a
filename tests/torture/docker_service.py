"""A Docker daemon of the tests' own, to be killed and restarted: its data, state and socket are private, and nothing of it stays.

It has a network of its own: a daemon without a bridge deletes docker0 where it starts, whoever made that.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator

from tests.contract.engine_contract import until
from tests.integration.sandbox_case import processes_with


class DockerService:
    """`url` answers while it runs. containerd is a service of its own, as distributions have it, and stays."""

    def __init__(self, home: pathlib.Path) -> None:
        self.home = home
        self.url = f"unix://{home}/docker.sock"
        self._containerd = self._spawn(
            "containerd",
            *("containerd", "--root", f"{home}/containerd", "--state", f"{home}/state", "--address", f"{home}/containerd.sock", "--config", "/dev/null"),
        )
        until((home / "containerd.sock").exists, "containerd listens")
        self.start()

    def start(self) -> None:
        own = ["--host", self.url, "--data-root", f"{self.home}/data", "--exec-root", f"{self.home}/exec", "--pidfile", f"{self.home}/pid"]
        other = ["--containerd", f"{self.home}/containerd.sock", "--bridge=none", "--iptables=false", "--default-ulimit", "nofile=1024:1024"]
        self._process = self._spawn("dockerd", "unshare", "--net", "dockerd", *own, *other)
        until(self._answers, "dockerd answers")

    def stop(self, number: signal.Signals) -> None:
        self._process.send_signal(number)
        self._process.wait(120)

    def load(self, *images: str) -> None:
        """From the machine's own Docker."""
        archive = self.home / "images.tar"
        subprocess.run(["docker", "save", "--output", archive, *images], check=True, timeout=120)
        self.ask("load", "--input", str(archive)).check_returncode()

    def containers(self, *options: str) -> list[str]:
        """Ids of those that run; of all with `--all`."""
        return self.ask("ps", "--quiet", *options).stdout.split()

    def ask(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Docker's command line."""
        return subprocess.run(["docker", "--host", self.url, *words], capture_output=True, text=True, check=False, timeout=120)

    def clear(self) -> None:
        """The end of both, and of their mounts. Of containers none may be there any more."""
        for process in (self._process, self._containerd):
            if process.poll() is None:
                process.terminate()
                process.wait(120)
        # A daemon that was killed in the middle of a start forgets the shim of that container, which waits for ever, without a process.
        for pid in processes_with(f"{self.home}/containerd.sock"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        until(lambda: not processes_with(str(self.home)), "shims end")
        mounts = [line.split()[1] for line in pathlib.Path("/proc/mounts").read_text().splitlines()]
        for mount in sorted((mount for mount in mounts if mount.startswith(f"{self.home}/")), reverse=True):
            subprocess.run(["umount", "--lazy", mount], check=True)

    def _spawn(self, name: str, *command: str) -> subprocess.Popen[bytes]:
        with (self.home / f"{name}.log").open("ab") as log:
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def _answers(self) -> bool:
        assert self._process.poll() is None, (self.home / "dockerd.log").read_text()[-2000:]
        return self.ask("version").returncode == 0


@contextlib.contextmanager
def running(*images: str) -> Iterator[DockerService]:
    """A daemon with these images of the machine's own. Sockets need a short path."""
    service = DockerService(pathlib.Path(tempfile.mkdtemp(prefix="tes-docker.")))
    try:
        service.load(*images)
        yield service
    finally:
        service.clear()
        shutil.rmtree(service.home)
