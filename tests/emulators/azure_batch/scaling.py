"""How pools get their nodes: resizes within the quotas, and autoscale formulas over samples of what there was."""

from __future__ import annotations

import datetime
import time
from typing import Any

from tests.emulators.azure_batch import formulas
from tests.emulators.azure_batch.account import ENDED, Account
from tests.emulators.azure_batch.formula_functions import SAMPLED, FormulaError, Sample, Samples
from tests.emulators.azure_batch.protocol import Json, now, stamp
from tests.emulators.azure_batch.records import Node, Pool

KEPT = 1000
"""samples of a metric"""
FIRST = ("creating", "starting", "unusable", "starttaskfailed", "preempted", "offline", "waitingforstarttask", "idle")
"""states of nodes that go before others"""


class Scaling:
    """Whoever uses it holds the account's lock."""

    def __init__(self, account: Account) -> None:
        self._account = account
        self._began = now()
        self._zero = time.monotonic()

    def clock(self) -> datetime.datetime:
        """The time in which intervals of formulas pass."""
        return self._began + datetime.timedelta(seconds=(time.monotonic() - self._zero) / self._account.world.second)

    def resize(self, pool: Pool, dedicated: int, low_priority: int, option: str) -> None:
        """New targets: the pool is resizing."""
        pool.dedicated, pool.low_priority, pool.option, pool.errors = dedicated, low_priority, option, []
        self._allocation(pool, "resizing")

    def _allocation(self, pool: Pool, state: str) -> None:
        if pool.allocation != state:
            pool.allocation, pool.allocated = state, now()
        self._account.lock.notify_all()

    def step(self, pool: Pool) -> None:
        """Bring it nearer to its targets."""
        self._sample(pool)
        due = pool.interval * self._account.world.second
        if pool.auto_scale and pool.allocation == "steady" and time.monotonic() - pool.evaluated >= due:
            self.scale(pool)
        if pool.allocation == "steady":
            return
        done = [self._toward(pool, wanted, dedicated=dedicated) for dedicated, wanted in ((True, pool.dedicated), (False, pool.low_priority))]
        if all(done) and not any(node.leaving for node in pool.nodes.values()):
            self._allocation(pool, "steady")

    def _toward(self, pool: Pool, wanted: int, *, dedicated: bool) -> bool:
        have = [node for node in pool.nodes.values() if node.dedicated == dedicated and not node.leaving]
        if pool.allocation == "stopping":
            return True
        for node in sorted(have, key=lambda node: (FIRST.index(node.state) if node.state in FIRST else len(FIRST), len(node.runs)))[
            : max(0, len(have) - wanted)
        ]:
            self.release(node, pool.option)
        missing = wanted - len(have)
        allowed = self._allowed(pool, missing, dedicated=dedicated)
        for _ in range(min(missing, allowed)):
            self._account.allocate(pool, dedicated=dedicated)
        return True

    def _allowed(self, pool: Pool, missing: int, *, dedicated: bool) -> int:
        """How many more nodes the quotas allow; what they refuse is told once."""
        if missing <= 0:
            return 0
        world = self._account.world
        used = sum(other.cores * other.count(dedicated=dedicated) for other in self._account.pools.values())
        allowed = ((world.dedicated_cores if dedicated else world.low_priority_cores) - used) // pool.cores
        code = "AccountCoreQuotaReached" if dedicated else "AccountLowPriorityCoreQuotaReached"
        words = "The specified account has reached core quota" if dedicated else "The specified account has reached low priority core quota"
        if pool.id.lower() in self._account.quota:
            allowed, (code, words) = 0, self._account.quota[pool.id.lower()]
        if allowed < missing and not any(error["code"] == code for error in pool.errors):
            pool.errors.append({"code": code, "message": words, "values": []})
        return max(0, allowed)

    def release(self, node: Node, option: str) -> None:
        """It leaves its pool, at once or when its tasks have ended."""
        if node.leaving:
            return
        node.leaving = option
        if option == "terminate":
            for run in node.runs.values():
                run.ending = run.ending or ENDED
        if option not in ("taskcompletion", "retaineddata") or not node.runs:
            self._go(node)

    def _go(self, node: Node) -> None:
        self._account.force_node(node, "leavingpool")
        self._account.retire(node)

    def let_go(self, pool: Pool) -> None:
        """Nodes that waited for their tasks' ends."""
        for node in list(pool.nodes.values()):
            if node.leaving and node.state != "leavingpool" and not node.runs:
                self._go(node)

    # -- formulas ------------------------------------------------------------------------------------------------------------

    def scale(self, pool: Pool) -> None:
        """Evaluate the pool's formula, and follow it."""
        pool.evaluated = time.monotonic()
        pool.run, own = self.evaluate(pool, pool.formula)
        if own is None:
            return
        dedicated, low_priority = int(own["$TargetDedicatedNodes"]), int(own["$TargetLowPriorityNodes"])
        if (dedicated, low_priority) != (pool.dedicated, pool.low_priority) or pool.errors:
            self.resize(pool, dedicated, low_priority, str(own["$NodeDeallocationOption"]))

    def evaluate(self, pool: Pool, formula: str) -> tuple[Json, dict[str, Any] | None]:
        """An AutoScaleRun, and the variables. FormulaError: the syntax is wrong; other errors are told of in the first."""
        told: Json = {"timestamp": stamp(now())}
        targets: dict[str, Any] = {
            "$TargetDedicatedNodes": float(pool.dedicated),
            "$TargetLowPriorityNodes": float(pool.low_priority),
            "$NodeDeallocationOption": "requeue",
        }
        seen = self._seen(pool)
        history = {name: Samples(pool.samples.get(name, []), value) for name, value in seen.items()}
        try:
            own = {**targets, **formulas.evaluate(formula, {**history, **targets}, self.clock())}
        except FormulaError as error:
            if error.code != "AutoScalingFormulaEvaluationError":
                raise
            return {**told, "results": formulas.results(targets), "error": {"code": error.code, "message": error.message, "values": []}}, None
        return {**told, "results": formulas.results(own)}, own

    def _seen(self, pool: Pool) -> dict[str, float]:
        jobs = [job for job in self._account.jobs.values() if job.pool == pool.id.lower()]
        active = float(sum(len(job.waiting) for job in jobs if job.state == "active"))
        running = float(sum(len(node.runs) for node in pool.nodes.values()))
        nodes = list(pool.nodes.values())
        return {
            "$ActiveTasks": active,
            "$RunningTasks": running,
            "$PendingTasks": active + running,
            "$SucceededTasks": float(sum(node.succeeded for node in nodes)),
            "$FailedTasks": float(sum(node.total - node.succeeded - len(node.runs) for node in nodes)),
            "$TaskSlotsPerNode": float(pool.slots),
            "$CurrentDedicatedNodes": float(pool.count(dedicated=True)),
            "$CurrentLowPriorityNodes": float(pool.count(dedicated=False)),
            "$UsableNodeCount": float(sum(node.state in ("idle", "running") for node in nodes)),
            "$PreemptedNodeCount": float(sum(node.state == "preempted" for node in nodes)),
        }

    def _sample(self, pool: Pool) -> None:
        if time.monotonic() - pool.sampled < SAMPLED * self._account.world.second:
            return
        pool.sampled = time.monotonic()
        at = self.clock()
        for name, value in self._seen(pool).items():
            kept = pool.samples.setdefault(name, [])
            kept.append(Sample(at, value))
            del kept[:-KEPT]
