"""An emulated AWS account with the S3 server of the environment behind it: what the tests of AWS Batch stand on."""

from __future__ import annotations

import contextlib
import pathlib
import uuid
from collections.abc import Iterator, Mapping

import pytest

from tes_server.backends.aws_batch.calls import Calls
from tes_server.backends.aws_batch.classify import Bounds
from tes_server.backends.aws_batch.driver import AwsBatchBackend, Times
from tes_server.backends.aws_batch.site import Mount, Queues, Site
from tes_server.filer import spool_place
from tes_server.filer.manifest import Access, Storage
from tes_server.filer.spool import Spool
from tes_server.plan.policy import Capabilities
from tes_server.runner.node import NodeSite
from tests.clock import utc
from tests.contract import object_servers
from tests.contract.object_servers import S3
from tests.emulators.aws_batch import roles
from tests.emulators.aws_batch.emulator import Emulator
from tests.emulators.aws_batch.world import ACCOUNT, World
from tests.guards import LOOPBACK

ROLE = f"arn:aws:iam::{ACCOUNT}:role/tes-tasks"

RUN = ("AWS_BATCH_JOB_ID",)


class Lab:
    """`work`: the hosts' directory of attempts. `image`: the runner's."""

    def __init__(self, emulator: Emulator, s3: S3, work: pathlib.Path, image: str) -> None:
        self.emulator = emulator
        self.s3 = s3
        self.work = work
        self.image = image
        self.endpoint = s3.settings.endpoint

    @property
    def runners(self) -> dict[str, str]:
        """The environment of runners: where S3 and the other services are."""
        return {
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ENDPOINT_URL_SECRETS_MANAGER": self.emulator.url,
            "AWS_ENDPOINT_URL_ECR": self.emulator.url,
        }

    def spool(self) -> Spool:
        """The spool, with this machine's keys."""
        return spool_place.opened(f"{self.s3.url}/spool", Access(stores=(self.s3.settings,)))

    def site(self, files: pathlib.Path, *, server: str = "", secrets: Mapping[str, str] | None = None) -> Site:
        """Hosts have the directory `files`; each call is another server, unless it is named."""
        own = Storage(url=self.s3.url, write=True, endpoint=self.endpoint)
        node = NodeSite(
            spool=f"{self.s3.url}/spool",
            spool_stores=(own,),
            run=RUN,
            access=Access(roots=(str(files),), guard=LOOPBACK, stores=(own,)),
            live_roots=(str(files / "live"),),
            tail_bytes=4096,
            grace=3.0,
            work=str(self.work),
            secrets=dict(secrets or {}),
        )
        return Site(
            server=server or f"lab-{uuid.uuid4().hex[:8]}",
            queues=Queues(regular="regular", spot="spot"),
            node=node,
            image=self.image,
            job_role=ROLE,
            environment=self.runners,
            mounts=(Mount(path=str(files), read_only=False),),
            log_group="/aws/batch/job",
        )

    def backend(
        self, site: Site, *, events: bool = True, times: Times | None = None, bounds: Bounds | None = None, submit_window: float = 180.0
    ) -> AwsBatchBackend:
        """As a server has it."""
        made = AwsBatchBackend(
            Calls(),
            site,
            Capabilities(submit_window=180.0, secrets=tuple(site.node.secrets)),
            utc,
            self.spool(),
            bounds=bounds or Bounds(reap=15.0),
            times=times or Times(poll=1.0, sweep=600.0),
            events=self.emulator.events_url if events else "",
        )
        made.resume()
        return made


@contextlib.contextmanager
def lab(work: pathlib.Path, image: str, world: World | None = None, *, reaper: bool = False, metadata: str = "auto") -> Iterator[Lab]:
    """Needs S3; Docker once a job runs, or with the hosts' reaper. Until its end the environment leads to the emulator."""
    with contextlib.ExitStack() as stack:
        s3 = stack.enter_context(object_servers.s3())
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        keys = roles.S3(s3.settings.endpoint, *s3.variables.values())
        emulator = stack.enter_context(Emulator(world, s3=keys, reaper=str(work) if reaper else "", metadata=metadata))
        for name, value in {**s3.variables, **emulator.environment}.items():
            patch.setenv(name, value)
        yield Lab(emulator, s3, work, image)
