"""A server's configuration for an emulated AWS account, and what that account is asked about its tasks."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from tests.acceptance import batch_site
from tests.acceptance.server import served
from tests.contract.object_servers import S3
from tests.emulators.aws_batch.jobs import Job
from tests.emulators.aws_batch.world import KIND
from tests.integration.aws_lab import ROLE, Lab


@dataclasses.dataclass(frozen=True)
class Site(batch_site.Site):
    """Its tasks run as jobs of AWS Batch."""

    lab: Lab

    backend: ClassVar[str] = "aws_batch"
    kind: ClassVar[str] = KIND
    stops: ClassVar[str] = "batch.TerminateJob"
    calls: ClassVar[tuple[str, ...]] = ("batch.*",)
    bounded: ClassVar[Mapping[str, str]] = {"max_cpus": "64"}

    @property
    def store(self) -> S3:
        return self.lab.s3

    def attempts(self, attempt: str = "") -> list[Job]:
        """Jobs."""
        made = jobs(self.lab, self.name)
        return made.get(attempt, []) if attempt else [job for same in made.values() for job in same]

    def ended(self) -> bool:
        return all(job.ended for job in self.attempts())

    def wait_end(self, attempt: str) -> None:
        self.lab.emulator.wait(f"{self.name}_{attempt}", "SUCCEEDED")

    def hold_spot(self) -> None:
        self.lab.emulator.bad_days.hold("spot")

    def release_spot(self) -> None:
        self.lab.emulator.bad_days.release("spot")

    def another(self, name: str, home: pathlib.Path, **more: Any) -> contextlib.AbstractContextManager[Site]:
        return serving(name, self.lab, home, self.docker, **more)

    def flags_of(self, path: pathlib.Path, server: str, **more: Any) -> tuple[str, ...]:
        return settings(self.lab, path, self.files, server=server, **more)


@contextlib.contextmanager
def serving(name: str, lab: Lab, home: pathlib.Path, docker: Any, *, environment: Mapping[str, str] | None = None, **more: Any) -> Iterator[Site]:
    """A server of that name. `more`: see `settings`. At its end nothing may be left of any task."""
    files = batch_site.files_below(home)
    flags = settings(lab, home / f"{name}.toml", files, server=name, **more)
    with served(home / name, *flags, environment=environment) as server:
        site = Site(server, name, flags, lab, files, docker, environment or {})
        yield site
        site.nothing_left()


def settings(lab: Lab, path: pathlib.Path, files: pathlib.Path, *, server: str, more: str = "", retries: int = 5, **changed: str) -> tuple[str, ...]:
    """Flags of a server whose only place for tasks is AWS Batch, unless `more` (TOML tables) says otherwise.

    `files`: a directory of the hosts, of which tasks may mount `live`. `retries`: new attempts where the platform failed.
    `changed`: keys of [aws_batch] with values as TOML has them.
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
backend = {retries}
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
[aws_batch.environment]
{runners}
[[aws_batch.mounts]]
path = "{files}"
read_only = false
"""
    )
    return ("--config", str(path))


def jobs(lab: Lab, server: str) -> dict[str, list[Job]]:
    """All jobs of a server, by the name of their attempt."""
    found: dict[str, list[Job]] = collections.defaultdict(list)
    with lab.emulator.account.lock:
        for job in lab.emulator.account.jobs.values():
            own, _, name = job.name.partition("_")
            if own == server:
                found[name].append(job)
    return dict(found)
