"""An emulated AWS account without hosts, whose jobs a test moves by hand, and whose spool is a directory: no Docker, no S3."""

from __future__ import annotations

import contextlib
import pathlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from tes_server.backends.aws_batch.calls import Calls
from tes_server.backends.aws_batch.classify import Bounds
from tes_server.backends.aws_batch.driver import AwsBatchBackend, Times
from tes_server.backends.aws_batch.site import Queues, Site
from tes_server.control.service import new_id
from tes_server.filer import spool_place
from tes_server.filer.manifest import Access
from tes_server.filer.spool import Attempt, Spool
from tes_server.model import run
from tes_server.model.run import Handle, Later, Observation, Phase, Refusal, Report
from tes_server.model.task import ExecutorLog
from tes_server.plan.policy import Capabilities
from tes_server.plan.steps import Execute, Limits, Placement, Plan, StageIn, StageOut
from tes_server.runner.node import NodeSite
from tests.clock import utc
from tests.emulators.aws_batch import jobs
from tests.emulators.aws_batch.emulator import Emulator
from tests.emulators.aws_batch.hosts import Host
from tests.emulators.aws_batch.jobs import Job
from tests.emulators.aws_batch.world import Environment, Queue, Size, World

PATIENCE = 30.0

ENVIRONMENTS = (Environment(name="spot-hosts", spot=True, hosts=0), Environment(name="regular-hosts", hosts=0))

QUEUES = (
    Queue(name="regular", environments=("regular-hosts",)),
    Queue(name="spot", environments=("spot-hosts",)),
    Queue(name="closed", environments=("regular-hosts",), enabled=False),
)

GOOD = Report(executors=(ExecutorLog(exit_code=0),))


class Desk:
    """Jobs stay RUNNABLE until a test has them run."""

    def __init__(self, emulator: Emulator, directory: pathlib.Path) -> None:
        self.emulator = emulator
        self.spool: Spool = spool_place.opened(f"file://{directory}", Access())
        self._url = f"file://{directory}"
        self._open: list[AwsBatchBackend] = []
        emulator.account.stop = lambda job: emulator.account.end(job, job.stopping, 143, failed=True)

    def site(self, server: str = "desk", **fields: Any) -> Site:
        """Of a server with that id."""
        node = NodeSite(spool=self._url, spool_stores=(), run=("AWS_BATCH_JOB_ID",))
        given: dict[str, Any] = {"server": server, "queues": Queues(regular="regular", spot="spot"), "node": node, "image": "server:1", **fields}
        return Site(**given)

    def backend(self, site: Site | None = None, *, events: bool = True, times: Times | None = None, bounds: Bounds | None = None) -> AwsBatchBackend:
        """A fresh object, as after a restart."""
        made = AwsBatchBackend(
            Calls(),
            site or self.site(),
            Capabilities(submit_window=180.0),
            utc,
            self.spool,
            bounds=bounds or Bounds(reap=0.0),
            times=times or Times(poll=0.05, sweep=600.0),
            events=self.emulator.events_url if events else "",
        )
        made.resume()
        self._open.append(made)
        return made

    def close(self) -> None:
        for backend in self._open:
            backend.close()

    # -- what AWS Batch and the runners do ----------------------------------------------------------------------------

    def of(self, handle: Handle) -> list[Job]:
        """All jobs of an attempt, in the order of their submission."""
        with self.emulator.account.lock:
            return [job for job in self.emulator.account.jobs.values() if job.name.endswith(f"_{handle.name}")]

    def run(self, job: Job, *, take: bool = True) -> bool:
        """It has a host and its container runs; whether it has the attempt."""
        self.emulator.wait(job.id, "RUNNABLE")
        with self.emulator.account.lock:
            self.emulator.account.place(job, Host("regular-hosts", job.queue == "spot", Size(vcpus=64, memory=1 << 20)))
            self.emulator.account.run(job)
        return take and self.spool.take(_attempt(job), job.id)

    def end(self, job: Job, report: Report | None = None, *, code: int | None = 0, reason: str = jobs.EXITED, words: str = "") -> None:
        """Its container has ended; `report`: what its runner wrote before."""
        if report is not None:
            self.spool.put_report(_attempt(job), report)
        with self.emulator.account.lock:
            self.emulator.account.end(job, reason, code, words, failed=code is None)

    def called(self, operation: str) -> int:
        """How often it was called."""
        return self.emulator.calls.seen[f"batch.{operation}"]


@contextlib.contextmanager
def desk(directory: pathlib.Path, *, queues: Sequence[Queue] = QUEUES, environments: Sequence[Environment] = ENVIRONMENTS) -> Iterator[Desk]:
    """Until its end the environment leads to the emulator."""
    world = World(environments=tuple(environments), queues=tuple(queues), visibility=1.0, submits=1000.0)
    with contextlib.ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        emulator = stack.enter_context(Emulator(world, metadata="loopback"))
        for name, value in emulator.environment.items():
            patch.setenv(name, value)
        made = Desk(emulator, directory)
        stack.callback(made.close)
        yield made
        assert emulator.endpoint.defects == []


def plan(task: str = "", attempt: int = 1, **placement: Any) -> Plan:
    """A task of one command."""
    return Plan(
        task_id=task or new_id(utc()),
        attempt=attempt,
        stage_in=StageIn(),
        executors=(Execute(index=0, image="i", argv=("true",)),),
        stage_out=StageOut(),
        mounts=(),
        limits=Limits(cpus=1, ram_bytes=10**8, disk_bytes=0),
        placement=Placement(**placement),
    )


def submit(backend: AwsBatchBackend, *plans: Plan) -> list[Handle | Refusal | Later | None]:
    """The answers, in the same order; None: nobody knows."""
    rendered = [backend.render(one) for one in plans or (plan(),)]
    answers = backend.submit(rendered)
    return [answers.get(job.name) for job in rendered]


def started(backend: AwsBatchBackend, *plans: Plan) -> Handle:
    """The handle of one attempt that AWS Batch took."""
    (answer,) = submit(backend, *plans)
    assert isinstance(answer, Handle), answer
    return answer


def look(backend: AwsBatchBackend, handle: Handle) -> Observation:
    """Phase UNKNOWN also for no news."""
    return backend.observe([handle]).get(handle, Observation(phase=Phase.UNKNOWN))


def until(backend: AwsBatchBackend, handle: Handle, holds: Phase | Callable[[Observation], Any]) -> Observation:
    """The first look at which it has this phase, or which holds."""
    wanted = (lambda seen: seen.phase is holds) if isinstance(holds, Phase) else holds
    end = time.monotonic() + PATIENCE
    while not wanted(seen := look(backend, handle)):
        assert time.monotonic() < end, f"still {seen}"
        time.sleep(0.02)
    return seen


def happens(holds: Callable[[], Any], what: str) -> None:
    """Fails if it never does."""
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end, f"never: {what}"
        time.sleep(0.02)


def _attempt(job: Job) -> Attempt:
    name = job.name.partition("_")[2]
    return Attempt(run.task_of(name), int(name.rpartition("-")[2]))
