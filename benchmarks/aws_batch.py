"""No-op tasks as jobs of the emulated AWS Batch: `python -m benchmarks.aws_batch --json` (`--image` is the server's image, which runs them).

Needs Docker and the S3 server that `eval "$(../shared/s3/up)"` names. Calls are those that the emulator counted, from the first create until all that
tasks had was given back. The time to COMPLETE is from the moment at which SQS has the message of a job's end to the GET that shows it. Rates: through a
whole server against bare containers of the runner's image, in alternating blocks; each task is such a container and one of its own image.
"""

from __future__ import annotations

import collections
import contextlib
import os
import pathlib
import tempfile
import time

from benchmarks import figures, noop, server
from benchmarks.server import Server
from tests.acceptance import aws_site, batch_site
from tests.contract import object_servers
from tests.emulators.aws_batch import jobs
from tests.emulators.aws_batch.world import Environment, Queue, Size, World
from tests.integration import aws_lab
from tests.integration.aws_lab import Lab

NAME = "bench"

PATIENCE = 1800.0
"""Seconds."""

LARGE = 16
"""Cores."""

WORLD = World(
    environments=(Environment(name="hosts", hosts=noop.AT_ONCE // 4, size=Size(vcpus=4)),),
    queues=(Queue(name="regular", environments=("hosts",)), Queue(name="spot", environments=("hosts",))),
)
"""As many tasks at once as bare containers."""


def calls(ours: Server, lab: Lab, tasks: int) -> list[figures.Figure]:
    """What `tasks` tasks cost in calls, and how soon a client sees their ends."""
    lab.emulator.administer("reset", {})
    begun = time.monotonic()
    ids = [ours.create(task()) for _ in range(tasks)]
    taken = seen(ours, lab, ids)
    batch_site.until(lambda: not lab.s3.objects(f"spool/{NAME}/"), "the spool is empty")
    seconds = time.monotonic() - begun
    counts = collections.Counter(lab.emulator.calls.seen)
    made = ", ".join(f"{number} {name}" for name, number in sorted(counts.items()))
    batch = sum(number for name, number in counts.items() if name.startswith("batch."))
    return [
        figures.Figure(
            what="calls of AWS Batch of a task's life",
            figure=round(batch / tasks, 3),
            unit="calls",
            goal="<= 1.3, one look at all (DescribeJobs) in 10 minutes at most",
            notes={"tasks": tasks, "seconds": round(seconds), "calls": made},
        ),
        figures.Figure(
            what="from the message in SQS to COMPLETE, p99",
            figure=round(figures.percentile(taken, 99) * 1000),
            unit="ms",
            goal="< 1000",
            notes={"tasks": tasks, "p50_ms": round(figures.percentile(taken, 50) * 1000)},
        ),
    ]


def task(cores: float = 1, executors: int = 1) -> dict[str, object]:
    """One that does nothing."""
    return {"executors": [{"image": noop.IMAGE, "command": ["true"]}] * executors, "resources": {"cpu_cores": cores, "ram_gb": 0.1}}


def seen(ours: Server, lab: Lab, ids: list[str]) -> list[float]:
    """Seconds from the message of each task's end to the GET that shows it. Asks for no task before that message."""
    left, taken = set(ids), []
    end = time.monotonic() + PATIENCE
    while left:
        ended = {sent.job: sent.at for sent in list(lab.emulator.bridge.sent) if sent.status in jobs.ENDED}
        told = {job.tags["tes-task"]: ended[job.id] for same in aws_site.jobs(lab, NAME).values() for job in same if job.id in ended}
        for one in [one for one in left if one in told]:
            state = ours.state(one)
            if state == "COMPLETE":
                taken.append(time.time() - told[one])
                left.remove(one)
            elif state in server.ENDS:
                raise SystemExit(f"{one} ended with {state}")
        if time.monotonic() > end:
            raise SystemExit(f"{len(left)} tasks have not ended")
        time.sleep(0.02)
    return taken


def reserved(ours: Server, lab: Lab) -> figures.Figure:
    """What a large task of several executors asks AWS Batch for."""
    lab.emulator.bad_days.hold("regular")
    one = ours.create(task(LARGE, executors=3))
    [job] = batch_site.until(lambda: aws_site.jobs(lab, NAME).get(f"{one}-1"), "the job is there")
    ours.ask("POST", f"/v1/tasks/{one}:cancel")
    ours.wait([one])
    lab.emulator.bad_days.release("regular")
    notes: dict[str, float | str] = {"mib": job.needs["MEMORY"]}
    return figures.Figure(what=f"reserved by {LARGE} cores, 3 executors", figure=job.needs["VCPU"], unit="vCPU", goal=f"<= {LARGE + 1}", notes=notes)


def main() -> None:
    parser = figures.parser(__doc__)
    parser.add_argument("--tasks", type=int, default=300, help="tasks while calls are counted")
    parser.add_argument("--block", type=int, default=40, help="tasks in one block of the rates")
    parser.add_argument("--image", default="tes-test/server", help="the server's image")
    chosen = parser.parse_args()
    where = figures.machine()
    object_servers.remember(os.environ)
    with contextlib.ExitStack() as stack:
        base = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(dir=chosen.data)))
        (base / "files").mkdir()
        lab = stack.enter_context(aws_lab.lab(base / "host", chosen.image, WORLD))
        flags = aws_site.settings(lab, base / "site.toml", base / "files", server=NAME)
        ours = stack.enter_context(server.running(base / "data", *flags, local__enabled="false"))
        bare = noop.BareDocker(chosen.image, "host", ["env"])
        stack.callback(bare.close)
        ours.wait([ours.create(task())], {"COMPLETE"})  # the job definition is there now
        found = [*calls(ours, lab, chosen.tasks), reserved(ours, lab)]
        pairs = figures.interleaved(lambda: noop.through(ours, noop.IMAGE, chosen.block), lambda: bare.rate(chosen.block), chosen.rounds)
    found.append(
        figures.compared(
            "no-op tasks as AWS Batch jobs",
            "a second",
            pairs,
            baseline_is="bare create+start+wait+remove of the runner's image",
            tasks_in_a_block=chosen.block,
            at_once=noop.AT_ONCE,
        )
    )
    figures.show("aws_batch", found, where, as_json=chosen.json)


if __name__ == "__main__":
    main()
