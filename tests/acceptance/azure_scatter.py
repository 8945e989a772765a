"""Many tasks whose Spot nodes are taken away under them, and the book-keeping of what became of each."""

from __future__ import annotations

from typing import Any

from tes_server.runner import node
from tests.acceptance.azure_site import Site
from tests.acceptance.batch_scatter import Scatter
from tests.acceptance.batch_site import until
from tests.emulators.azure_batch.records import Node

POLLING = {"list_tasks", "get_pool", "get_node", "list_pool_node_counts"}
"""Calls that come with time and with what has changed, not with tasks."""

SPARE = 10
"""Calls for a second job, and for pools that are told to grow."""


def run(site: Site, tasks: int, preempted: int, patience: float) -> dict[str, Any]:
    """So many tasks, all alone on a server. Nodes are taken back while commands run on them, until so many commands were lost with theirs.

    Each task is COMPLETE with the right output; its command ran at most once in each attempt; each attempt was one task of Azure Batch, and there was
    another one only where a node was taken back.
    """
    emulator = site.lab.emulator
    emulator.calls.reset()
    crowd = Scatter(site, tasks)
    crowd.create(1.0 + number % 4 for number in range(tasks))
    until(lambda: len({task.id for task in site.attempts() if task.id.endswith("-1")}) == tasks, "all are on Azure Batch")
    begun = _calls(site)
    ran: set[str] = set()
    there: set[str] = set()
    nodes = 0
    while len(ran) < preempted:
        taken, busy = until(lambda: _busy(site), "commands run on a Spot node", patience)
        with emulator.account.lock:
            there |= {run.task.id for run in taken.runs.values()}
        ran |= busy
        # In turn: told at once and back soon; told late; away for longer.
        emulator.bad_days.preempt(taken.id, told=float(nodes % 3 == 1), restore=3.0 if nodes % 3 == 2 else 1.0)
        nodes += 1
    counted = crowd.check(patience)
    again = 0
    for task in crowd.ids:
        [log] = site.server.get(task)["logs"]
        told = [line for line in log.get("system_logs", []) if line.startswith("PREEMPTED")]
        assert [len(site.attempts(f"{task}-{number + 1}")) for number in range(3)] == [1, len(told), 0], log
        assert len(told) <= 1, log
        assert f"{task}-1" in there or not told, log
        assert log["metadata"]["capacity"] == ("dedicated" if told else "spot")
        again += len(told)
    calls = _calls(site)
    # A lost attempt costs the end of the task that Azure Batch has queued anew, and another task.
    assert sum(calls.values()) - sum(begun.values()) <= 2 * again + SPARE, (begun, calls)
    looks = {name: emulator.calls.seen[name] for name in sorted(POLLING)}
    lost = {"preempted": again, "commands": len(ran), "nodes": nodes}
    return {**counted, **lost, "begun": begun, "begun_per_task": round(sum(begun.values()) / tasks, 3), "calls": calls, "looks": looks}


def _calls(site: Site) -> dict[str, int]:
    """Up to now, but for those that poll."""
    return {name: count for name, count in site.lab.emulator.calls.seen.items() if name not in POLLING}


def _busy(site: Site) -> tuple[Node, set[str]] | None:
    """The Spot node with most attempts in their commands, and these; None if none has two."""
    running = {found["Labels"].get(node.LABEL) for found in site.docker.containers()}
    with site.lab.emulator.account.lock:
        busy = [(one, {run.task.id for run in one.runs.values()} & running) for one in site.nodes("spot") if one.state == "running"]
    best = max(busy, key=lambda found: len(found[1]), default=None)
    return best if best is not None and len(best[1]) > 1 else None
