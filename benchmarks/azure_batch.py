"""No-op tasks as tasks of the emulated Azure Batch: `python -m benchmarks.azure_batch --json` (`--image` is the server's image, which runs them).

Needs Docker and the Azurite that `eval "$(.ci/azurite up)"` names. Calls are those that the emulator counted, from the first create until all that tasks
had was given back. The time to COMPLETE is from the end of a task on Azure Batch to the GET that shows it. Rates: through a whole server against bare
containers of the runner's image, in alternating blocks; each task is such a container and one of its own image. What 10,000 running tasks cost is
processor time of this server's part alone, on an emulator that runs nothing.
"""

from __future__ import annotations

import collections
import contextlib
import datetime
import gc
import os
import pathlib
import tempfile
import time
import tracemalloc
from collections.abc import Sequence

import pytest

from benchmarks import figures, noop, server
from benchmarks.server import Server
from tes_server.backends.azure_batch.driver import AzureBatchBackend
from tes_server.model.run import Handle
from tests.acceptance import azure_site, batch_site
from tests.contract import object_servers
from tests.emulators.azure_batch.protocol import now
from tests.emulators.azure_batch.world import World
from tests.integration import azure_desk, azure_lab
from tests.integration.azure_desk import Desk
from tests.integration.azure_lab import Lab

NAME = "bench"

PATIENCE = 1800.0
"""Seconds."""

POLL = 2.0
"""Seconds between two looks at what has changed. Ends come at any time in between."""

SLOTS = 8
"""Of a node."""

RUNNING = 10_000

POLLS = frozenset({"list_tasks", "get_pool"})
"""Calls that follow from time, not from tasks."""


def calls(ours: Server, lab: Lab, tasks: int) -> list[figures.Figure]:
    """What `tasks` tasks cost in calls, and how soon a client sees their ends."""
    lab.emulator.administer("reset", {})
    begun = time.monotonic()
    ids = [ours.create(task()) for _ in range(tasks)]
    taken = seen(ours, lab, ids)
    batch_site.until(lambda: not lab.blobs.objects(f"spool/{NAME}/"), "the spool is empty")
    seconds = time.monotonic() - begun
    counts = collections.Counter(lab.emulator.calls.seen)
    made = ", ".join(f"{number} {name}" for name, number in sorted(counts.items()))
    own = sum(number for name, number in counts.items() if name not in POLLS)
    return [
        figures.Figure(
            what="calls of Azure Batch of a task's life, but polls",
            figure=round(own / tasks, 3),
            unit="calls",
            goal="<= 0.05 with 300 tasks",
            notes={"tasks": tasks, "seconds": round(seconds), "calls": made},
        ),
        figures.Figure(
            what="pages of lists in an interval, while tasks come and go",
            figure=round(counts["list_tasks"] / (seconds / POLL), 2),
            unit="pages",
            goal="<= 1 a job where nothing changes",
        ),
        figures.Figure(
            what="from its end on Azure Batch to COMPLETE, p99",
            figure=round(figures.percentile(taken, 99), 2),
            unit="s",
            goal=f"< {POLL + 1:g}: an interval and a second",
            notes={"tasks": tasks, "p50": round(figures.percentile(taken, 50), 2), "interval": POLL},
        ),
    ]


def task() -> dict[str, object]:
    """One that does nothing."""
    return {"executors": [{"image": noop.IMAGE, "command": ["true"]}], "resources": {"cpu_cores": 1, "ram_gb": 0.1}}


def seen(ours: Server, lab: Lab, ids: list[str]) -> list[float]:
    """Seconds from each task's end to the GET that shows it. Asks for none before that end."""
    left, taken = set(ids), []
    end = time.monotonic() + PATIENCE
    while left:
        with lab.emulator.account.lock:
            tasks = [one for job in lab.emulator.account.jobs.values() for one in job.tasks.values()]
            ended = {one.spec["displayName"]: one.since for one in tasks if one.state == "completed"}
        for one in [one for one in left if one in ended]:
            state = ours.state(one)
            if state == "COMPLETE":
                taken.append((datetime.datetime.now(datetime.UTC) - ended[one]).total_seconds())
                left.remove(one)
            elif state in server.ENDS:
                raise SystemExit(f"{one} ended with {state}")
        if time.monotonic() > end:
            raise SystemExit(f"{len(left)} tasks have not ended")
        time.sleep(0.05)
    return taken


def running(directory: pathlib.Path) -> list[figures.Figure]:
    """What it costs to look after 10,000 tasks that run."""
    found = []
    with azure_desk.desk(directory) as desk:
        backend = desk.backend(looks=False)
        handles = [handle for _ in range(RUNNING // 1000) for handle in azure_desk.added(backend, *azure_desk.many(1000))]
        _begin(desk)
        _look(backend)
        found.append(_kept(desk, handles))
        _age(desk)
        for changes in (0, 10, 1500):
            _change(desk, changes)
            pages = desk.called("list_tasks")
            used = _look(backend)
            pages = desk.called("list_tasks") - pages
            found.append(
                figures.Figure(
                    what=f"a look at {RUNNING} that run, {changes} of them changed",
                    figure=round(used * 1000, 1),
                    unit="ms of processor time",
                    goal="follows changes",
                    notes={"pages": pages},
                )
            )
            _age(desk)
        before = time.process_time()
        for first in range(0, RUNNING, 200):
            backend.observe(handles[first : first + 200])
        spent = time.process_time() - before
        found.append(figures.Figure(what=f"a sweep over {RUNNING} that run", figure=round(spent * 1000), unit="ms of processor time", goal="no call"))
    return found


def _kept(desk: Desk, handles: Sequence[Handle]) -> figures.Figure:
    """Memory of a backend that finds these tasks, as after a restart."""
    gc.collect()
    tracemalloc.start()
    backend = desk.backend(looks=False)
    backend.observe(handles)
    _look(backend)
    gc.collect()
    kept = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    backend.close()
    return figures.Figure(what="kept of each running task", figure=round(kept / len(handles) / 1000, 2), unit="kB", notes={"tasks": len(handles)})


def _look(backend: AzureBatchBackend) -> float:
    """Processor time of this thread for one look at all jobs."""
    before = time.thread_time()
    azure_desk.look_at_jobs(backend)
    return time.thread_time() - before


def _begin(desk: Desk) -> None:
    """As Azure Batch shows tasks that run; the emulator has no nodes for so many."""
    with desk.emulator.account.lock:
        for job in desk.emulator.account.jobs.values():
            job.waiting.clear()
            for one in job.tasks.values():
                one.state, one.since = "running", now()


def _change(desk: Desk, changes: int) -> None:
    with desk.emulator.account.lock:
        for job in desk.emulator.account.jobs.values():
            for one in list(job.tasks.values())[:changes]:
                one.state, one.since = "preparing", now()


def _age(desk: Desk) -> None:
    """All changes are of long ago."""
    with desk.emulator.account.lock:
        for job in desk.emulator.account.jobs.values():
            for one in job.tasks.values():
                one.since -= datetime.timedelta(minutes=5)


def main() -> None:
    parser = figures.parser(__doc__)
    parser.add_argument("--tasks", type=int, default=300, help="tasks while calls are counted")
    parser.add_argument("--block", type=int, default=40, help="tasks in one block of the rates")
    parser.add_argument("--image", default="tes-test/server", help="the server's image")
    parser.add_argument("--only", choices=("running",), help="this part alone, which needs neither Docker nor Azurite")
    chosen = parser.parse_args()
    where = figures.machine()
    with contextlib.ExitStack() as stack:
        base = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(dir=chosen.data)))
        (base / "desk").mkdir()
        found = running(base / "desk")
        if chosen.only is None:
            found += served(base, chosen.image, chosen.tasks, chosen.block, chosen.rounds)
    figures.show("azure_batch", found, where, as_json=chosen.json)


def served(base: pathlib.Path, image: str, tasks: int, block: int, rounds: int) -> list[figures.Figure]:
    """Through a whole server, with real runners."""
    object_servers.remember(os.environ)
    (base / "files").mkdir()
    with contextlib.ExitStack() as stack:
        lab = stack.enter_context(azure_lab.lab(base / "node", image, World(start_tasks=False)))
        lab.pool(f"{NAME}-regular", nodes=noop.AT_ONCE // SLOTS, slots=SLOTS)
        lab.emulator.wait_nodes(f"{NAME}-regular", noop.AT_ONCE // SLOTS, "idle")
        flags = azure_site.settings(lab, base / "site.toml", base / "files", server=NAME, poll=str(POLL))
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        for name, value in azure_site.lives(base).items():
            patch.setenv(name, value)
        ours = stack.enter_context(server.running(base / "data", *flags, local__enabled="false"))
        bare = noop.BareDocker(image, "host", ["env"])
        stack.callback(bare.close)
        ours.wait([ours.create(task())], {"COMPLETE"})  # the job is there now
        found = calls(ours, lab, tasks)
        pairs = figures.interleaved(lambda: noop.through(ours, noop.IMAGE, block), lambda: bare.rate(block), rounds)
    rate = figures.compared(
        "no-op tasks as Azure Batch tasks",
        "a second",
        pairs,
        baseline_is="bare create+start+wait+remove of the runner's image",
        tasks_in_a_block=block,
        at_once=noop.AT_ONCE,
        interval=POLL,
    )
    return [*found, rate]


if __name__ == "__main__":
    main()
