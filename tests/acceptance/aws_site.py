"""A server's configuration for an emulated AWS account, and what that account is asked about its tasks."""

from __future__ import annotations

import collections
import contextlib
import json
import os
import pathlib
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from tests.acceptance.server import BIN, Client, Server, served
from tests.emulators import containers
from tests.emulators.aws_batch.jobs import Job
from tests.emulators.aws_batch.world import KIND
from tests.integration.aws_lab import ROLE, Lab

IMAGE = "tes-test/busybox"

SMALL = {"cpu_cores": 1, "ram_gb": 0.1}

PATIENCE = 60.0
"""Seconds."""


class Site(NamedTuple):
    """A running server, and the account in which its tasks run. `files`: a directory of the hosts, of which tasks may mount `live`."""

    server: Server
    name: str
    flags: tuple[str, ...]
    lab: Lab
    files: pathlib.Path
    docker: Any

    def run(self, *words: object, seconds: float = 90, environment: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """A program of this project, by a user of the server."""
        env = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "TES_URL": self.server.url, **(environment or {})}
        return subprocess.run([str(word) for word in words], check=False, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=seconds)

    def marked(self, name: str, script: str = "", **fields: Any) -> str:
        """A task whose command leaves a line in a file of that name each time that it runs."""
        marks = str(self.files / "live")
        live = [{"type": "DIRECTORY", "path": marks, "url": marks}]
        return self.server.create(sh(f'echo run >>"$1/$2"; {script}', marks, name), inputs=live, **{"resources": SMALL, **fields})

    def runs(self, name: str) -> int:
        """How often the command of that name has run."""
        file = self.files / "live" / name
        return len(file.read_text().splitlines()) if file.exists() else 0

    def jobs(self, attempt: str = "") -> list[Job]:
        """Those of an attempt, or of the whole server."""
        made = jobs(self.lab, self.name)
        return made.get(attempt, []) if attempt else [job for same in made.values() for job in same]


@contextlib.contextmanager
def serving(
    name: str, lab: Lab, home: pathlib.Path, docker: Any, *, files: pathlib.Path | None = None, environment: Mapping[str, str] | None = None, **more: str
) -> Iterator[Site]:
    """A server of that name. `more`: see `settings`. At its end nothing may be left of any task."""
    files = files or home / "files"
    (files / "live").mkdir(parents=True, exist_ok=True)
    (files / "live").chmod(0o777)
    flags = settings(lab, home / f"{name}.toml", files, server=name, **more)
    with served(home / name, *flags, environment=environment) as server:
        site = Site(server, name, flags, lab, files, docker)
        yield site
        _nothing_left(site)


def settings(lab: Lab, path: pathlib.Path, files: pathlib.Path, *, server: str, batch_more: str = "", more: str = "", **changed: str) -> tuple[str, ...]:
    """Flags of a server whose only place for tasks is AWS Batch, unless `more` (TOML tables) says otherwise.

    `files`: a directory of the hosts, of which tasks may mount `live`. `changed`: keys of [aws_batch] with values as TOML has them.
    """
    local = "" if "[local]" in more else "[local]\nenabled = false\n"
    batch = {
        "queue": '"regular"',
        "spot_queue": '"spot"',
        "image": json.dumps(lab.image),
        "job_role": json.dumps(ROLE),
        "events": json.dumps(lab.emulator.events_url),
        "work": json.dumps(str(lab.work)),
        "grace": "3",
        "reap_seconds": "10",
        **changed,
    }
    keys = "\n".join(f"{name} = {value}" for name, value in batch.items())
    runners = "\n".join(f"{name} = {json.dumps(value)}" for name, value in lab.runners.items())
    path.write_text(
        f"""
{local}
{more}
[server]
id = "{server}"
[files]
live_mounts = ["{files / "live"}"]
[retries]
first_delay = 0.5
longest_delay = 2
[spool]
url = "{lab.s3.url}/spool/{server}"
[[storage]]
url = "{lab.s3.url}/spool"
write = true
tasks = false
endpoint = "{lab.endpoint}"
[[storage]]
url = "{lab.s3.url}/data"
write = true
endpoint = "{lab.endpoint}"
[aws_batch]
{keys}
{batch_more}
[aws_batch.environment]
{runners}
[[aws_batch.mounts]]
path = "{files}"
read_only = false
"""
    )
    return ("--config", str(path))


def sh(script: str, *words: str) -> dict[str, Any]:
    """An executor."""
    return {"image": IMAGE, "command": ["/bin/sh", "-euc", script, "sh", *words]}


def jobs(lab: Lab, server: str) -> dict[str, list[Job]]:
    """All jobs of a server, by the name of their attempt."""
    found: dict[str, list[Job]] = collections.defaultdict(list)
    with lab.emulator.account.lock:
        for job in lab.emulator.account.jobs.values():
            own, _, name = job.name.partition("_")
            if own == server:
                found[name].append(job)
    return dict(found)


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


def _nothing_left(site: Site) -> None:
    """No job runs, no container of theirs is there, no directory on the hosts, no object in the spool."""
    until(lambda: all(job.ended for job in site.jobs()), "all jobs have ended")
    directories = site.lab.work / "attempts"
    until(lambda: not directories.exists() or not [*directories.iterdir()], "no attempt is left on the hosts")
    until(lambda: not [found for found in site.docker.containers(all=True) if _of(found, site.lab)], "no container is left")
    until(lambda: not site.lab.s3.objects(f"spool/{site.name}/"), "the spool is empty")


def _of(container: Mapping[str, Any], lab: Lab) -> bool:
    """A runner of the lab, or what one has started."""
    mounted = any(pathlib.Path(mount.get("Source", "/")).is_relative_to(lab.work) for mount in container.get("Mounts", []))
    return mounted or container["Labels"].get(containers.label(KIND)) == lab.emulator.id
