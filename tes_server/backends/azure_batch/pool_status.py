"""How pools are, in words for whoever runs the server: nodes by state, what keeps them from coming, what waits. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from tes_server.backends.azure_batch import formula, pool_changes

_QUOTA = "ask for more (Azure portal: the Batch account, Quotas), or name fewer nodes"

ADVICE = {
    "accountcorequotareached": f"the account's quota of dedicated cores is used up: {_QUOTA}",
    "accountlowprioritycorequotareached": f"the account's quota of Spot cores is used up: {_QUOTA}",
    "accountspotcorequotareached": f"the account's quota of Spot cores is used up: {_QUOTA}",
    "accountvmseriescorequotareached": f"the account's quota of cores for this series of sizes is used up: {_QUOTA}, or another vm_size",
    "allocationfailed": "Azure has no such machines at the moment: another vm_size, or a pool that is not spot",
    "allocationtimedout": "Azure did not bring all nodes, or did not see all go, in time; the formula asks again at its next evaluation",
    "resizestopped": "a change of its size was stopped by hand; the formula asks again at its next evaluation",
}
"""What an error of a pool's last change of size means, and what helps; by its code in lower case."""

NODES = {
    "starttaskfailed": "the start task failed: its output is in startup/stderr.txt of the node; the image or its registry cannot be reached, most often",
    "unusable": "Azure Batch cannot use them: look at the subnet's rules and routes (they must reach Azure Batch's node management), and at the image",
}
"""What nodes in a state that does not end by itself mean."""

GOOD = ("running", "idle")


class Tasks(NamedTuple):
    """Tasks of all jobs on a pool, and the slots that they take."""

    waiting: int = 0
    running: int = 0
    waiting_slots: int = 0
    running_slots: int = 0

    def plus(self, counts: Mapping[str, Any]) -> Tasks:
        """With those of one more job, from `get_job_task_counts`."""
        tasks, slots = counts.get("taskCounts") or {}, counts.get("taskSlotCounts") or {}
        return Tasks(
            self.waiting + int(tasks.get("active") or 0),
            self.running + int(tasks.get("running") or 0),
            self.waiting_slots + int(slots.get("active") or 0),
            self.running_slots + int(slots.get("running") or 0),
        )


class Status(NamedTuple):
    """A pool as it is. `nodes`: by state, in lower case, only states that some are in."""

    id: str
    state: str
    allocation: str
    drains: bool
    scales: bool
    nodes: dict[str, int]
    wanted: int
    tasks: Tasks
    evaluated: str = ""
    """When its formula was evaluated last, UTC."""
    asks: int = 0
    """Nodes that it came to"""
    wrong: str = ""
    """Why it could not be evaluated."""
    errors: tuple[tuple[str, str], ...] = ()
    """Code and Azure's words of what the last change of its size ended with."""


def status(pool: Mapping[str, Any], counts: Mapping[str, Any], tasks: Tasks) -> Status:
    """From `get_pool`, its entry in `list_pool_node_counts`, and its tasks."""
    run = pool.get("autoScaleRun") or {}
    return Status(
        id=str(pool.get("id")),
        state=str(pool.get("state")),
        allocation=str(pool.get("allocationState")),
        drains=pool_changes.drains(pool),
        scales=bool(pool.get("enableAutoScale")),
        nodes=nodes(counts),
        wanted=int(pool.get("targetDedicatedNodes") or 0) + int(pool.get("targetLowPriorityNodes") or 0),
        tasks=tasks,
        evaluated=str(run.get("timestamp") or "")[:19],
        asks=sum(formula.targets(str(run.get("results") or ""))),
        wrong=_said(run["error"]) if run.get("error") else "",
        errors=tuple((str(one.get("code")), str(one.get("message") or "")) for one in pool.get("resizeErrors") or ()),
    )


def nodes(counts: Mapping[str, Any]) -> dict[str, int]:
    """By state, in lower case, only states that some are in; from a pool's entry in `list_pool_node_counts`."""
    found: dict[str, int] = {}
    for kind in ("dedicated", "lowPriority"):
        for state, count in (counts.get(kind) or {}).items():
            if count and state != "total":
                found[state.lower()] = found.get(state.lower(), 0) + int(count)
    return found


def lines(told: Status) -> Iterator[str]:
    """The same in words, one thing a line; what somebody should look at begins with `!`."""
    total = sum(told.nodes.values())
    states = sorted(told.nodes.items(), key=lambda item: (item[0] not in GOOD, item[0]))
    listed = ", ".join(f"{count} {state}" for state, count in states)
    yield f"{told.state}, {told.allocation}: {total} nodes{f' ({listed})' if listed else ''}, {told.wanted} wanted"
    tasks = told.tasks
    yield f"{tasks.waiting} tasks wait ({tasks.waiting_slots} slots), {tasks.running} run ({tasks.running_slots} slots)"
    if told.drains:
        yield "! its nodes were told to go (pools apply --drain); `pools apply` ends that"
    elif not told.scales:
        yield "! it does not scale: its formula is off; `pools apply` turns it on"
    elif told.wrong:
        yield f"! its formula could not be evaluated at {told.evaluated} UTC: {told.wrong}"
    elif told.evaluated:
        yield f"its formula came to {told.asks} nodes at {told.evaluated} UTC"
    for code, words in told.errors:
        yield f"! {code}: {ADVICE.get(code.lower(), words)}"
    for state, words in NODES.items():
        if count := told.nodes.get(state, 0):
            yield f"! {count} nodes are {state}: {words}"


def _said(error: Mapping[str, Any]) -> str:
    values = ", ".join(f"{one.get('name')}: {one.get('value')}" for one in error.get("values") or ())
    return f"{error.get('code')}: {error.get('message')}{f' ({values})' if values else ''}"
