"""The state of the emulated account, and the transitions of its tasks and nodes."""

from __future__ import annotations

import itertools
import pathlib
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from tests.emulators.azure_batch.protocol import Json, not_found, now, stamp
from tests.emulators.azure_batch.records import Job, Node, Pool, Run, Task
from tests.emulators.azure_batch.world import World

Resource = TypeVar("Resource", Pool, Node, Job, Task)
ENDED = {"category": "usererror", "code": "TaskEnded", "message": "Task Was Ended by User Request"}
JOB_ENDED = {"category": "usererror", "code": "TaskEnded", "message": "The job of the task was terminated"}


class Account:
    """Everything in it is read and changed under `lock`; who waits for a state waits on it. `home`: directory of the nodes."""

    def __init__(self, world: World, url: str, home: pathlib.Path) -> None:
        self.lock = threading.Condition()
        self.world = world
        self.url = url
        self.home = home
        self.pools: dict[str, Pool] = {}
        self.jobs: dict[str, Job] = {}
        self._numbers = itertools.count(4)
        self.stuck: dict[str, str] = {}
        """what new nodes of a pool become: `unusable`, `starttaskfailed`; ids of pools in lower case"""
        self.quota: dict[str, tuple[str, str]] = {}
        """pools that get no further nodes -> code and words of the resize error"""
        self.stop: Callable[[Run], None] = lambda _: None
        """stops what a task runs; set by the agents"""
        self.boot: Callable[[Node], None] = lambda _: None
        """starts a new node; set by the agents"""
        self.retire: Callable[[Node], None] = lambda _: None
        """takes a node out of its pool, once all on it has been stopped; set by the agents"""

    # -- what there is -----------------------------------------------------------------------------------------------------

    def pool(self, name: str) -> Pool:
        return _found(self.pools, name, "Pool")

    def job(self, name: str) -> Job:
        return _found(self.jobs, name, "Job")

    def task(self, job: str, name: str) -> Task:
        return _found(self.job(job).tasks, name, "Task")

    def node(self, pool: str, name: str) -> Node:
        return _found(self.pool(pool).nodes, name, "Node")

    # -- tasks -------------------------------------------------------------------------------------------------------------

    def move(self, record: Task | Job, state: str) -> None:
        if record.state != state:
            record.previous = (record.state, record.since)
            record.state, record.since = state, now()
        self.lock.notify_all()

    def add(self, job: Job, task: Task) -> None:
        job.tasks[task.key[1]] = job.waiting[task.key[1]] = task
        self.lock.notify_all()

    def place(self, job: Job, task: Task, node: Node) -> Run:
        """The task has this node: it is preparing."""
        directory = node.root / "workitems" / job.id / "job-1" / task.id
        run = Run(task, node, node.lost, directory)
        job.waiting.pop(task.key[1], None)
        task.run = task.last = run
        task.began = time.monotonic()
        node.runs[task.key] = run
        node.total += 1
        self.set_node(node, "running")
        task.info |= {"startTime": stamp(now())}
        for name in ("endTime", "exitCode", "failureInfo", "result", "containerInfo"):
            task.info.pop(name, None)
        self.move(task, "preparing")
        return run

    def running(self, run: Run, container: str = "") -> None:
        """Its command has been started."""
        if run.task.run is run:
            run.container = container
            if container:
                run.task.info["containerInfo"] = {"containerId": container, "state": "running"}
            self.move(run.task, "running")

    def leave(self, run: Run) -> None:
        """The task's slots are free again."""
        if run.node.runs.pop(run.task.key, None) is not None and not run.node.runs:
            self.set_node(run.node, "idle")
        run.task.run = None

    def ended(self, run: Run, code: int | None, failure: Json | None) -> None:
        """It has exited (`code`) or could not (`failure`): completed, or tried again. Nothing happens to a task that runs elsewhere by now."""
        task = run.task
        if task.run is not run:
            return
        job = self.jobs.get(task.key[0])
        if run.ending is not None:
            code, failure = None, run.ending
        failure = failure or _of(code)
        if job is not None and code not in (0, None) and self._tried_again(job, task):
            self.leave(run)
            task.info |= {"retryCount": task.info["retryCount"] + 1, "lastRetryTime": stamp(now())}
            self._wait_again(job, task)
            return
        node = run.node
        node.succeeded += failure is None
        self.leave(run)
        self.complete(task, code, failure)
        node.recent.append({"taskId": task.id, "jobId": task.key[0], "taskState": "completed", "taskUrl": task.url, "executionInfo": dict(task.info)})

    def complete(self, task: Task, code: int | None, failure: Json | None) -> None:
        task.info |= {"endTime": stamp(now()), "result": "failure" if failure else "success"}
        task.info.setdefault("startTime", task.info["endTime"])
        if code is not None:
            task.info["exitCode"] = code
        if failure is not None:
            task.info["failureInfo"] = failure
        if "containerInfo" in task.info:
            task.info["containerInfo"] = {**task.info["containerInfo"], "state": "exited"}
        job = self.jobs.get(task.key[0])
        if job is not None:
            job.waiting.pop(task.key[1], None)
        self.move(task, "completed")

    def requeue(self, run: Run, *, asked: bool = False) -> None:
        """The task is active again, without its node; `asked`: because somebody asked for it, which alone is counted."""
        task = run.task
        if task.run is not run:
            return
        job = self.jobs.get(task.key[0])
        self.leave(run)
        if run.ending is not None or job is None:
            self.complete(task, None, run.ending or ENDED)
            return
        if asked:
            task.info |= {"requeueCount": task.info["requeueCount"] + 1, "lastRequeueTime": stamp(now())}
        self._wait_again(job, task)

    def _wait_again(self, job: Job, task: Task) -> None:
        for name in ("startTime", "containerInfo"):
            task.info.pop(name, None)
        job.waiting[task.key[1]] = task
        self.move(task, "active")

    def end(self, task: Task, failure: Json = ENDED) -> None:
        """Terminate it: completed at once if nothing runs, else once that has been stopped."""
        if task.state == "completed":
            return
        if task.run is None:
            self.complete(task, None, failure)
        elif task.run.ending is None:
            task.run.ending = failure
            self.stop(task.run)

    def _tried_again(self, job: Job, task: Task) -> bool:
        most = task.spec.get("constraints", {}).get("maxTaskRetryCount", job.spec.get("constraints", {}).get("maxTaskRetryCount", 0))
        return bool(most < 0 or task.info["retryCount"] < most)

    # -- nodes -------------------------------------------------------------------------------------------------------------

    def set_node(self, node: Node, state: str) -> None:
        """A node's state; idle and running only change with each other."""
        if state in ("idle", "running") and node.state not in ("idle", "running"):
            return
        self.force_node(node, state)

    def force_node(self, node: Node, state: str) -> None:
        if node.state != state:
            node.state, node.since = state, now()
        self.lock.notify_all()

    def allocate(self, pool: Pool, *, dedicated: bool) -> Node:
        """A new node: it is creating."""
        name = f"tvmps_{uuid.uuid4().hex}{uuid.uuid4().hex}_{'d' if dedicated else 'p'}"
        number = next(self._numbers)
        node = Node(
            id=name,
            url=f"{self.url}/pools/{pool.id}/nodes/{name}",
            spec={},
            state="creating",
            pool=pool,
            dedicated=dedicated,
            root=self.home / name[6:18],
            address=f"10.0.{number // 250}.{number % 250}",
        )
        pool.nodes[name] = node
        self.boot(node)
        return node

    def remove(self, node: Node) -> None:
        node.pool.nodes.pop(node.id, None)
        self.lock.notify_all()

    def wait(self, until: Callable[[], Any], seconds: float = 60.0) -> Any:
        """What `until` gives, once that is something; it is asked again after each change, and now and then. AssertionError after `seconds`."""
        end = time.monotonic() + seconds
        with self.lock:
            while not (found := until()):
                assert time.monotonic() < end, f"not within {seconds} s: {self.summary()}"
                self.lock.wait(0.05)
        return found

    def summary(self) -> Json:
        """For people."""
        with self.lock:
            nodes = {node.id: (pool.id, node.state, ["/".join(key) for key in node.runs]) for pool in self.pools.values() for node in pool.nodes.values()}
            pools = {pool.id: (pool.state, pool.allocation, pool.dedicated, pool.low_priority, pool.errors) for pool in self.pools.values()}
            tasks = [("/".join(task.key), task.state, task.info) for job in self.jobs.values() for task in [*job.tasks.values()][-20:]]
        return {"pools": pools, "nodes": nodes, "jobs": {job.id: job.state for job in self.jobs.values()}, "tasks": tasks}


def _found(where: Mapping[str, Resource], name: str, what: str) -> Resource:
    found = where.get(name.lower())
    if found is None:
        raise not_found(what)
    return found


def _of(code: int | None) -> Json | None:
    if code in (0, None):
        return None
    words = "The task exited with an exit code representing a failure"
    return {"category": "usererror", "code": "FailureExitCode", "message": words, "details": [{"name": "Message", "value": words}]}
