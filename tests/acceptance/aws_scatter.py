"""Many tasks whose Spot hosts are taken away under them, and the book-keeping of what became of each."""

from __future__ import annotations

import functools
from typing import Any

from tests.acceptance.aws_site import Site
from tests.acceptance.batch_scatter import Scatter
from tests.acceptance.batch_site import until

GONE = "Host EC2"


def run(site: Site, tasks: int, reclaimed: int, patience: float) -> dict[str, Any]:
    """So many tasks, all alone on a server. Hosts are reclaimed while commands run on them, until that was the end of so many attempts.

    Each task is COMPLETE with the right output; its command ran at most once in each attempt; each attempt was one job, and there was another one
    only after a reclaim.
    """
    crowd = Scatter(site, tasks)
    crowd.create(1.0 + number % 4 for number in range(tasks))
    hosts = 0
    while len(_lost(site)) < reclaimed:
        host = until(lambda: _busy(site), "commands run on a Spot host", patience)
        # In turn: at once, with a TERM before, and as one that AWS Batch does not notice at first.
        site.lab.emulator.bad_days.reclaim(host, notice=float(hosts % 3 == 1), drain=hosts % 3 == 1, told=float(hosts % 3 == 2))
        hosts += 1
        until(functools.partial(_replaced, site, host), "AWS Batch knows that the host is lost")
    counted = crowd.check(patience)
    lost = _lost(site)
    for task in crowd.ids:
        [log] = site.server.get(task)["logs"]
        told = [line for line in log.get("system_logs", []) if line.startswith("PREEMPTED")]
        assert [len(site.attempts(f"{task}-{number + 1}")) for number in range(3)] == [1, len(told), 0], log
        # A command that ended just before its host went has told so: its job is lost, and the attempt is not.
        assert f"{task}-1" in lost or not told, log
        assert log["metadata"]["capacity"] == ("on-demand" if told else "spot")
    return {**counted, "reclaimed": len(lost), "hosts": hosts}


def _lost(site: Site) -> list[str]:
    """Attempts whose host was taken away."""
    return [job.name.partition("_")[2] for job in site.attempts() if job.ended and job.reason.startswith(GONE)]


def _replaced(site: Site, host: str) -> bool:
    return host not in site.lab.emulator.account.fleet.hosts


def _busy(site: Site) -> str:
    """A Spot host with a task in its command; "" if there is none."""
    account = site.lab.emulator.account
    with account.lock:
        hosts = {host.id: [account.jobs[job] for job in host.runs] for host in account.fleet.hosts.values() if host.spot and not host.draining}
    names = " ".join(name for found in site.docker.containers() for name in found["Names"])
    busy = {host: sum(job.tags["tes-task"] in names for job in jobs) for host, jobs in hosts.items()}
    return max((host for host in busy if busy[host]), key=lambda host: busy[host], default="")
