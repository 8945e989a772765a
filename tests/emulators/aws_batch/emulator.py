"""The emulator: all parts put together, started and stopped."""

from __future__ import annotations

import contextlib
import pathlib
import tempfile
import uuid
from typing import Any, Self

import boto3
import botocore.config

from tests.emulators import leftovers
from tests.emulators.aws_batch import protocol
from tests.emulators.aws_batch.account import Account
from tests.emulators.aws_batch.agents import Agents
from tests.emulators.aws_batch.bad_days import BadDays
from tests.emulators.aws_batch.batch import Batch
from tests.emulators.aws_batch.endpoint import Endpoint
from tests.emulators.aws_batch.events import Bridge
from tests.emulators.aws_batch.jobs import Job
from tests.emulators.aws_batch.metadata import Metadata
from tests.emulators.aws_batch.protocol import Json
from tests.emulators.aws_batch.roles import S3, Roles
from tests.emulators.aws_batch.scheduler import Scheduler
from tests.emulators.aws_batch.signing import Keys, Principal
from tests.emulators.aws_batch.small_services import Ecr, SecretsManager
from tests.emulators.aws_batch.sqs import Queue, Sqs
from tests.emulators.aws_batch.world import ACCOUNT, KEY, KIND, REGION, SECRET, World
from tests.emulators.containers import Containers
from tests.emulators.faults import Bucket, Calls
from tests.emulators.reaper import Reaper


class Emulator(contextlib.AbstractContextManager["Emulator"]):
    """A context manager. Needs Docker once a job runs.

    `s3`: where the credentials of job roles are good; its keys are good here, too, as one user's are for all of AWS. `lifetime`: seconds after which
    those of roles are said to expire. `metadata`: see `Metadata`.
    `reaper`: a directory of the hosts; the program that a launch template starts beside the runners looks after it.
    """

    def __init__(
        self, world: World | None = None, *, s3: S3 | None = None, port: int = 0, lifetime: float = 3600.0, metadata: str = "auto", reaper: str = ""
    ) -> None:
        self.world = world or World()
        self.id = uuid.uuid4().hex[:12]
        self._wanted = metadata
        self._reaper = Reaper(reaper)
        self._exit = contextlib.ExitStack()
        self._exit.enter_context(contextlib.closing(leftovers.Alive(KIND, self.id)))
        leftovers.remove_directories(KIND)
        directory = pathlib.Path(self._exit.enter_context(tempfile.TemporaryDirectory(prefix=f"{leftovers.directory(KIND)}{self.id}-")))
        self.submits = Bucket(self.world.submits)
        self.calls = Calls(protocol.limit(self.submits))
        self.keys = Keys()
        self._user = (s3.key, s3.secret) if s3 else (KEY, SECRET)
        for key, secret in {(KEY, SECRET), self._user}:
            self.keys.add(key, Principal(f"arn:aws:iam::{ACCOUNT}:user/emulator", secret))
        self.events = Queue(self.world.events, self.world.visibility)
        self.bridge = Bridge(self.events)
        self.account = Account(self.world, self.bridge)
        self.endpoint = Endpoint(self.calls, self.keys, port)
        self.url = self.endpoint.url
        self.sqs = Sqs(self.url, [self.events])
        self.secrets = SecretsManager(self.world.secrets)
        self.roles = Roles(self.keys, s3, lifetime, directory)
        self._containers = Containers(KIND, self.id)
        self.agents = Agents(self.account, self._containers, self.roles)
        self._scheduler = Scheduler(self.account, self.agents.start)
        self.bad_days = BadDays(self.account, self.agents, self.calls, self.bridge, self.keys, self.roles)
        for name, operations in (("batch", Batch(self.account)), ("sqs", self.sqs), ("secretsmanager", self.secrets), ("ecr", Ecr())):
            self.endpoint.add(name, operations)

    def __enter__(self) -> Self:
        """What is started first ends last."""
        with contextlib.ExitStack() as started:
            started.push(self._exit.pop_all())
            started.callback(self.roles.close)
            started.callback(self._containers.close)
            self.endpoint.start(self.administer)
            started.callback(self.endpoint.close)
            self.metadata = Metadata(self.roles, self._instance, self._task, self._wanted)
            self.metadata.start()
            started.callback(self.metadata.close)
            self._reaper.start()
            started.callback(self._reaper.close)
            self._scheduler.start()
            started.callback(self.agents.close)
            started.callback(self._scheduler.close)
            started.callback(self.events.close)
            self._exit = started.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._exit.close()

    @property
    def environment(self) -> dict[str, str]:
        """What a client of AWS needs of the environment to use the emulator."""
        services = ("BATCH", "SQS", "SECRETS_MANAGER", "ECR")
        key, secret = self._user
        keys = {"AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret, "AWS_REGION": REGION, "AWS_DEFAULT_REGION": REGION}
        return {f"AWS_ENDPOINT_URL_{service}": self.url for service in services} | keys

    @property
    def events_url(self) -> str:
        """Of the SQS queue with the job state changes."""
        return self.sqs.url(self.world.events)

    def client(self, service: str, key: str = KEY, secret: str = SECRET, **config: Any) -> Any:
        """A client of boto3; `config` for botocore.config.Config."""
        settings = botocore.config.Config(**{"retries": {"total_max_attempts": 1}, "max_pool_connections": 50, **config})
        return boto3.client(service, endpoint_url=self.url, region_name=REGION, aws_access_key_id=key, aws_secret_access_key=secret, config=settings)

    def job(self, name: str) -> Job:
        """The one job of this id, or the newest of this name."""
        with self.account.lock:
            named = [job for job in self.account.jobs.values() if name in (job.id, job.name)]
        return named[-1]

    def wait(self, name: str, *statuses: str, seconds: float = 60.0) -> Job:
        """A job, by id or name, once it has one of these states."""
        self.account.wait(lambda: any(name in (job.id, job.name) and job.status in statuses for job in self.account.jobs.values()), seconds)
        return self.job(name)

    def log(self, job: Job) -> str:
        """What the container of a job that has ended wrote."""
        return self.account.logs.get(job.now.get("logStreamName", ""), b"").decode(errors="replace")

    def _instance(self) -> Json:
        with self.account.lock:
            host = next(iter(self.account.fleet.hosts.values()))
        return {"instance-id": host.id, "instance-type": host.size.instance_type, "instance-life-cycle": "spot" if host.spot else "on-demand"}

    def _task(self, name: str) -> Json | None:
        """As the task metadata endpoint tells of a task that runs."""
        with self.account.lock:
            job = next((job for job in self.account.jobs.values() if job.host is not None and job.now["taskArn"].endswith(f"/{name}")), None)
        return None if job is None else {"TaskARN": job.now["taskArn"], "Family": job.definition["jobDefinitionName"], "LaunchType": "EC2"}

    def administer(self, name: str, given: Json) -> Any:
        """What `/_emulator/NAME` does: a bad day, or `state`, `calls`, `reset`, `log`."""
        if name in ("state", "calls", "reset", "log"):
            return getattr(self, f"_{name}")(**given)
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.bad_days, name)(**given)

    def _state(self) -> Json:
        with self.account.lock:
            hosts = {
                host.id: {"environment": host.environment, "jobs": list(host.runs), "draining": host.draining} for host in self.account.fleet.hosts.values()
            }
            jobs = [job.summary() for job in self.account.jobs.values()]
        return {"hosts": hosts, "jobs": jobs, "held": self.account.holds, "events": self.events.counts(), "defects": self.endpoint.defects}

    def _calls(self) -> Json:
        return {"seen": dict(self.calls.seen), "refused": dict(self.calls.refused), "messages": len(self.bridge.sent)}

    def _log(self, job: str) -> str:
        return self.log(self.job(job))

    def _reset(self) -> None:
        self.calls.reset()
        self.bridge.sent.clear()
