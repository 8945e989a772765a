"""An emulated Azure Batch account whose tasks a test moves by hand, and whose spool is a directory: no Docker, no Azurite."""

from __future__ import annotations

import contextlib
import datetime
import pathlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from azure.batch import models

from tes_server import errors
from tes_server.backends.azure_batch.calls import Account, Calls
from tes_server.backends.azure_batch.classify import Bounds
from tes_server.backends.azure_batch.driver import AzureBatchBackend, Times
from tes_server.backends.azure_batch.site import Pool, Shape, Site
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
from tests.emulators.azure_batch.emulator import Emulator
from tests.emulators.azure_batch.records import Job, Task
from tests.emulators.azure_batch.world import ACCOUNT, KEY, World

PATIENCE = 120.0

GB = 10**9

SIZE = "standard_d64s_v5"

SHAPE = Shape(cpus=64, ram_bytes=256 * GB, disk_bytes=2000 * GB)
"""One node of a pool."""

REGULAR = Pool(id="regular", vm_size=SIZE, shape=SHAPE)

SPOT = Pool(id="spot", vm_size=SIZE, spot=True, shape=SHAPE)

POLL = 0.1

GOOD = Report(executors=(ExecutorLog(exit_code=0),))


class Desk:
    """A task runs as soon as a node has room for it, and until a test ends it."""

    def __init__(self, emulator: Emulator, directory: pathlib.Path) -> None:
        self.emulator = emulator
        self.spool: Spool = spool_place.opened(f"file://{directory}", Access())
        self._url = f"file://{directory}"
        self._open: list[AzureBatchBackend] = []

    def pool(self, name: str, *, nodes: int = 0, spot: bool = False, slots: int = 64, formula: str = "", metadata: dict[str, str] | None = None) -> None:
        """A pool of this size, or one that a formula scales."""
        scale: dict[str, Any] = {"target_low_priority_nodes" if spot else "target_dedicated_nodes": nodes}
        if formula:
            scale = {"enable_auto_scale": True, "auto_scale_formula": formula, "auto_scale_evaluation_interval": "PT5M"}
        with self.emulator.client() as client:
            client.create_pool(
                models.BatchPoolCreateOptions(
                    id=name,
                    vm_size=SIZE,
                    task_slots_per_node=slots,
                    metadata=[models.BatchMetadataItem(name=key, value=value) for key, value in (metadata or {}).items()],
                    virtual_machine_configuration=models.VirtualMachineConfiguration(
                        image_reference=models.BatchVmImageReference(publisher="microsoft-dsvm", offer="ubuntu-hpc", sku="2204", version="latest"),
                        node_agent_sku_id="batch.node.ubuntu 22.04",
                        container_configuration=models.BatchContainerConfiguration(type="dockerCompatible"),
                    ),
                    **scale,
                )
            )

    def resize(self, name: str, *, dedicated: int = 0, spot: int = 0) -> None:
        """So many nodes, once they are there."""
        with self.emulator.account.lock:
            pool = self.emulator.account.pool(name)
            pool.dedicated, pool.low_priority, pool.errors, pool.allocation = dedicated, spot, [], "resizing"
            self.emulator.account.lock.notify_all()
        self.emulator.wait_nodes(name, dedicated + spot, "idle", "running")

    def site(self, server: str = "desk", **fields: Any) -> Site:
        """Of a server with that id."""
        node = NodeSite(spool=self._url, spool_stores=(), run=("AZ_BATCH_JOB_ID", "AZ_BATCH_TASK_ID", "AZ_BATCH_NODE_ID", "BOOT"))
        return Site(**{"server": server, "pools": (REGULAR, SPOT), "node": node, "image": "server:1", **fields})

    def backend(
        self,
        site: Site | None = None,
        *,
        poll: float = POLL,
        job_tasks: int = 20_000,
        bounds: Bounds | None = None,
        clock: Callable[[], datetime.datetime] = utc,
        calls: Calls | None = None,
        looks: bool = True,
    ) -> AzureBatchBackend:
        """A fresh object, as after a restart; without `looks` it asks for nothing by itself."""
        made = AzureBatchBackend(
            calls or self.calls(),
            site or self.site(),
            Capabilities(submit_window=180.0, names_last=True),
            clock,
            self.spool,
            bounds=bounds or Bounds(reap=0.0, node=60.0),
            times=Times(poll=poll, job_tasks=job_tasks),
        )
        if looks:
            made.resume()
            self._open.append(made)
        return made

    def calls(self, key: str = KEY) -> Calls:
        """A client by shared key; "" = by the identity of the environment."""
        return Calls(Account(self.emulator.url, ACCOUNT, key))

    def close(self) -> None:
        for backend in self._open:
            backend.close()

    # -- what Azure Batch and the runners do --------------------------------------------------------------------------

    def task(self, handle: Handle) -> Task:
        """The task of an attempt, in the job that its handle names."""
        return self.emulator.task(handle.ref, handle.name)

    def of(self, name: str) -> list[Task]:
        """All tasks of an attempt, whatever their jobs."""
        with self.emulator.account.lock:
            return [task for job in self.emulator.account.jobs.values() for task in job.tasks.values() if task.id == name]

    def jobs(self) -> list[Job]:
        """In the order in which they were added."""
        with self.emulator.account.lock:
            return list(self.emulator.account.jobs.values())

    def runs(self, handle: Handle, *, take: bool = True) -> str:
        """Wait until it has a node, which is the answer; its runner takes the attempt there."""
        task = self.emulator.wait(handle.ref, handle.name, "running")
        assert task.run is not None
        if take:
            assert self.spool.take(_attempt(handle), started(task))
        return task.run.node.id

    def end(self, handle: Handle, report: Report | None = None, *, code: int = 0) -> None:
        """Its container has ended; `report`: what its runner wrote before."""
        if report is not None:
            self.spool.put_report(_attempt(handle), report)
        self.emulator.bad_days.finish(handle.ref, handle.name, code)

    def called(self, operation: str) -> int:
        """How often it was called."""
        return self.emulator.calls.seen[operation]

    @property
    def calls_made(self) -> int:
        """All calls."""
        return sum(self.emulator.calls.seen.values())


@contextlib.contextmanager
def desk(directory: pathlib.Path, *, pools: bool = True, **world: Any) -> Iterator[Desk]:
    """Until its end the environment leads to the emulator. `pools`: both are there, without nodes; `world`: fields of `World`."""
    usual: dict[str, Any] = {"boot": 0.0, "dedicated_cores": 10**6, "low_priority_cores": 10**6}
    with contextlib.ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        emulator = stack.enter_context(Emulator(World(**{**usual, **world}), metadata="loopback", pretend=True))
        for name, value in emulator.environment.items():
            patch.setenv(name, value)
        made = Desk(emulator, directory)
        stack.callback(made.close)
        if pools:
            made.pool("regular")
            made.pool("spot", spot=True)
            emulator.calls.reset()
        yield made
        assert emulator.endpoint.defects == []


def plan(task: str = "", attempt: int = 1, *, ram_bytes: int = 10**8, max_runtime: float = 0.0, **placement: Any) -> Plan:
    """A task of one command."""
    return Plan(
        task_id=task or new_id(utc()),
        attempt=attempt,
        stage_in=StageIn(),
        executors=(Execute(index=0, image="i", argv=("true",)),),
        stage_out=StageOut(),
        mounts=(),
        limits=Limits(cpus=1, ram_bytes=ram_bytes, disk_bytes=0, max_runtime=max_runtime),
        placement=Placement(**placement),
    )


def submit(backend: AzureBatchBackend, *plans: Plan) -> list[Handle | Refusal | Later | None]:
    """The answers, in the same order; None: nobody knows."""
    rendered = [backend.render(one) for one in plans or (plan(),)]
    answers = backend.submit(rendered)
    return [answers.get(job.name) for job in rendered]


def added(backend: AzureBatchBackend, *plans: Plan) -> list[Handle]:
    """The handles of attempts that Azure Batch took, all of them."""
    answers = submit(backend, *plans)
    handles = [answer for answer in answers if isinstance(answer, Handle)]
    assert len(handles) == len(answers), answers
    return handles


def later(backend: AzureBatchBackend, *plans: Plan) -> Later:
    """Why one attempt is not taken now."""
    (answer,) = submit(backend, *plans)
    assert isinstance(answer, Later), answer
    return answer


def many(count: int) -> list[Plan]:
    return [plan() for _ in range(count)]


def look_at_jobs(backend: AzureBatchBackend) -> None:
    """A look at each job, now and in this thread."""
    backend._looks._round(time.monotonic(), early=False)


def look(backend: AzureBatchBackend, handle: Handle) -> Observation:
    """Phase UNKNOWN also for no news."""
    return backend.observe([handle]).get(handle, Observation(phase=Phase.UNKNOWN))


def until(backend: AzureBatchBackend, handle: Handle, holds: Phase | Callable[[Observation], Any]) -> Observation:
    """The first look at which it has this phase, or which holds."""
    wanted = (lambda seen: seen.phase is holds) if isinstance(holds, Phase) else holds
    end = time.monotonic() + PATIENCE
    while not wanted(seen := look(backend, handle)):
        assert time.monotonic() < end, f"still {seen}"
        time.sleep(0.02)
    return seen


def reported(backend: AzureBatchBackend, handle: Handle) -> Report | None:
    """The report of an attempt that has ended; None also while Azure does not answer."""
    try:
        return look(backend, handle).report
    except errors.Unavailable:
        return None


def happens(holds: Callable[[], Any], what: str) -> None:
    """Fails if it never does."""
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end, f"never: {what}"
        time.sleep(0.02)


def started(task: Task) -> str:
    """What names this start of a task, as its runner has it."""
    assert task.run is not None
    return f"{task.key[0]}/{task.id}/{task.run.node.id}/{task.run.number}"


def forward(monkeypatch: pytest.MonkeyPatch, modules: Sequence[Any]) -> Clock:
    """A monotonic clock of these modules that a test moves."""
    made = Clock()
    for module in modules:
        monkeypatch.setattr(module, "time", made)
    return made


class Clock:
    """`time`, `offset` seconds fast."""

    def __init__(self) -> None:
        self.offset = 0.0
        self.sleep = time.sleep

    def monotonic(self) -> float:
        return time.monotonic() + self.offset


def _attempt(handle: Handle) -> Attempt:
    return Attempt(run.task_of(handle.name), int(handle.name.rpartition("-")[2]))
