"""A running server whose tasks run on an emulated batch service, and what the tests of all such services ask of it."""

from __future__ import annotations

import abc
import contextlib
import dataclasses
import os
import pathlib
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from tests.acceptance.server import BIN, Client, Server
from tests.contract import object_servers
from tests.emulators import containers

IMAGE = "tes-test/busybox"

SMALL = {"cpu_cores": 1, "ram_gb": 0.1}

PATIENCE = 60.0
"""Seconds."""


@dataclasses.dataclass(frozen=True)
class Site(abc.ABC):
    """`lab`: the account in which its tasks run. `files`: a directory of the hosts, of which tasks may mount `live`. `environment`: the server's."""

    server: Server
    name: str
    flags: tuple[str, ...]
    lab: Any
    files: pathlib.Path
    docker: Any
    environment: Mapping[str, str]

    backend: ClassVar[str]
    kind: ClassVar[str]
    """Of the emulator's containers."""
    stops: ClassVar[str]
    """The call that ends an attempt."""
    calls: ClassVar[tuple[str, ...]]
    """All of them, as patterns."""
    bounded: ClassVar[Mapping[str, str]] = {}
    """Settings with which no task has more than 64 cores."""

    @property
    @abc.abstractmethod
    def store(self) -> object_servers.Server:
        """Where data and spool are."""

    @abc.abstractmethod
    def attempts(self, attempt: str = "") -> list[Any]:
        """What the service has of an attempt, or of the whole server."""

    @abc.abstractmethod
    def ended(self) -> bool:
        """Whether the service runs nothing of this server."""

    @abc.abstractmethod
    def wait_end(self, attempt: str) -> None:
        """Until the service knows of its end."""

    @abc.abstractmethod
    def hold_spot(self) -> None:
        """Nothing begins on Spot capacity."""

    @abc.abstractmethod
    def release_spot(self) -> None: ...

    @abc.abstractmethod
    def another(self, name: str, home: pathlib.Path, **more: Any) -> contextlib.AbstractContextManager[Site]:
        """One more server with this account."""

    @abc.abstractmethod
    def flags_of(self, path: pathlib.Path, server: str, **more: Any) -> tuple[str, ...]:
        """Flags of one, with its settings at `path`."""

    def run(self, *words: object, seconds: float = 90, environment: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """A program of this project, by a user of the server or by who keeps it."""
        return run(*words, seconds=seconds, environment={**self.environment, "TES_URL": self.server.url, **(environment or {})})

    def marked(self, name: str, script: str = "", **fields: Any) -> str:
        """A task whose command leaves a line in a file of that name each time that it runs."""
        (self.files / "live" / name).unlink(missing_ok=True)
        marks = str(self.files / "live")
        live = [{"type": "DIRECTORY", "path": marks, "url": marks}]
        return self.server.create(sh(f'echo run >>"$1/$2"; {script}', marks, name), inputs=live, **{"resources": SMALL, **fields})

    def runs(self, name: str) -> int:
        """How often the command of that name has run."""
        file = self.files / "live" / name
        return len(file.read_text().splitlines()) if file.exists() else 0

    def kill_reconciler(self) -> None:
        """The server starts another one."""
        os.kill(self.server.part("reconciler"), signal.SIGKILL)

    def containers_of(self, task: str) -> list[str]:
        """Names of those that run."""
        return [name for found in self.docker.containers() for name in found["Names"] if task in name]

    def nothing_left(self) -> None:
        """Nothing runs, no container of theirs is there, no directory on the hosts, no object in the spool."""
        until(self.ended, "everything has ended")
        directories = self.lab.work / "attempts"
        until(lambda: not directories.exists() or not [*directories.iterdir()], "no attempt is left on the hosts")
        until(lambda: not [found for found in self.docker.containers(all=True) if self._owns(found)], "no container is left")
        until(lambda: not self.store.objects(f"spool/{self.name}/"), "the spool is empty")

    def _owns(self, container: Mapping[str, Any]) -> bool:
        """A runner of the lab, or what one has started."""
        mounted = any(pathlib.Path(mount.get("Source", "/")).is_relative_to(self.lab.work) for mount in container.get("Mounts", []))
        return mounted or container["Labels"].get(containers.label(self.kind)) == self.lab.emulator.id


def files_below(home: pathlib.Path) -> pathlib.Path:
    """A directory for hosts, with `live` in it, into which tasks may write."""
    live = home / "files" / "live"
    live.mkdir(parents=True, exist_ok=True)
    live.chmod(0o777)
    return live.parent


def run(*words: object, seconds: float = 90, environment: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """A program of this project."""
    env = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", **(environment or {})}
    return subprocess.run([str(word) for word in words], check=False, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=seconds)


def sh(script: str, *words: str) -> dict[str, Any]:
    """An executor."""
    return {"image": IMAGE, "command": ["/bin/sh", "-euc", script, "sh", *words]}


def until(condition: Callable[[], Any], what: str, patience: float = PATIENCE) -> Any:
    """What `condition` gives, once that is something."""
    deadline = time.monotonic() + patience
    while not (found := condition()):
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.1)
    return found


def said(server: Client, task_id: str, *words: str) -> str:
    """The line of system_logs that has all of the words, once there is one."""

    def line() -> str:
        logs = server.get(task_id).get("logs") or [{}]
        return next((line for log in logs for line in log.get("system_logs", []) if all(word in line for word in words)), "")

    return str(until(line, f"{words} in the logs of {task_id}"))
