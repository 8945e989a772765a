"""The scheduler: pools get nodes, tasks get slots, what takes too long is ended."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from tests.emulators.azure_batch.account import ENDED, Account
from tests.emulators.azure_batch.protocol import duration
from tests.emulators.azure_batch.records import Job, Node, Pool, Run, Task
from tests.emulators.azure_batch.scaling import Scaling

TICK = 0.1
"""seconds between two looks where nothing changes"""
TOO_LONG = {**ENDED, "details": [{"name": "Message", "value": "The maximum execution time configured on the task was exceeded"}]}


class Scheduler(threading.Thread):
    """`start` runs a placed task, `settle` brings jobs on that are ending: both under the account's lock."""

    def __init__(self, account: Account, scaling: Scaling, start: Callable[[Run], None], settle: Callable[[], None]) -> None:
        super().__init__(name="scheduler")
        self._account = account
        self._scaling = scaling
        self._start = start
        self._settle = settle
        self._closed = False

    def run(self) -> None:
        with self._account.lock:
            while not self._closed:
                for name, pool in list(self._account.pools.items()):
                    self._advance(name, pool)
                self._place()
                self._time_out()
                self._settle()
                self._account.lock.wait(TICK)

    def close(self) -> None:
        with self._account.lock:
            self._closed = True
            self._account.lock.notify_all()
        self.join()

    def _advance(self, name: str, pool: Pool) -> None:
        self._scaling.let_go(pool)
        self._scaling.step(pool)
        if pool.state == "deleting" and not pool.nodes:
            del self._account.pools[name]
            self._account.lock.notify_all()

    def _place(self) -> None:
        """Jobs by priority, tasks in the order in which they came."""
        for job in sorted(self._account.jobs.values(), key=lambda job: -job.priority):
            pool = self._account.pools.get(job.pool)
            if job.state != "active" or pool is None or pool.state == "deleting":
                continue
            most = job.spec.get("maxParallelTasks", -1)
            for task in list(job.waiting.values()):
                if not any(node.takes(1) for node in pool.nodes.values()):
                    break
                if 0 <= most <= sum(one.run is not None for one in job.tasks.values()) or task.not_before > time.monotonic():
                    continue
                node = self._node(pool, job, task)
                if node is not None:
                    self._start(self._account.place(job, task, node))

    def _node(self, pool: Pool, job: Job, task: Task) -> Node | None:
        """`spread`: the emptiest node with room; `pack`: the fullest. A node on which the job's preparation has failed gets none of its tasks."""
        fitting = [node for node in pool.nodes.values() if node.takes(task.slots) and node.prepared.get(job.id, {}).get("result") != "failure"]
        if not fitting:
            return None
        pack = pool.spec.get("taskSchedulingPolicy", {}).get("nodeFillType") == "pack"
        return max(fitting, key=lambda node: node.used) if pack else min(fitting, key=lambda node: node.used)

    def _time_out(self) -> None:
        now = time.monotonic()
        for pool in self._account.pools.values():
            for node in pool.nodes.values():
                for run in list(node.runs.values()):
                    limit = run.task.spec.get("constraints", {}).get("maxWallClockTime")
                    if limit and run.ending is None and now - run.task.began > duration(limit) * self._account.world.second:
                        self._account.end(run.task, TOO_LONG)
