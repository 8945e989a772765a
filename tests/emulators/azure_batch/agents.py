"""The lives of nodes: they boot, run their start task, are lost, come back. How tasks run there is left to the kinds of agents."""

from __future__ import annotations

import abc
import contextlib
import threading

from tests.emulators.azure_batch.account import Account
from tests.emulators.azure_batch.protocol import Json, now, stamp
from tests.emulators.azure_batch.records import Node, Run
from tests.emulators.threads import Threads

STUCK = {
    "unusable": {"code": "NodeNotResponding", "message": "The node agent does not answer", "errorDetails": []},
    "starttaskfailed": {"code": "StartTaskFailed", "message": "The start task has failed", "errorDetails": []},
}


class Agents(abc.ABC):
    """`slow`: seconds before what is to be stopped is stopped. `broken`: images that cannot be had -> code of the failure."""

    def __init__(self, account: Account) -> None:
        self._account = account
        self.threads = Threads()
        self.slow = 0.0
        self.broken: dict[str, str] = {}
        account.stop, account.boot, account.retire = self.stop, self.boot, self.retire

    # -- tasks -------------------------------------------------------------------------------------------------------------

    @abc.abstractmethod
    def start(self, run: Run) -> None:
        """Run a task that has been placed; the caller holds the account's lock."""

    @abc.abstractmethod
    def stop(self, run: Run) -> None:
        """KILL it, and nothing that it has started beside itself; the caller may hold the lock."""

    @abc.abstractmethod
    def erase(self, node: Node) -> None:
        """As if the machine were gone: all that runs on it, and its disk."""

    @abc.abstractmethod
    def run_start_task(self, node: Node, given: Json) -> tuple[int | None, Json | None]:
        """Exit code, failureInfo."""

    @abc.abstractmethod
    def refresh(self, run: Run) -> None:
        """Output files of what runs are brought up to date."""

    # -- nodes -------------------------------------------------------------------------------------------------------------

    def boot(self, node: Node) -> None:
        """A new node, or one that starts once more with nothing left on it."""
        self.threads.spawn(lambda: self._boot(node))

    def _boot(self, node: Node) -> None:
        if node.state != "creating":
            self.destroy(node)
        with self._account.lock:
            node.lost, node.start, node.errors = threading.Event(), None, []
            node.prepared.clear()
        life = node.lost
        self.threads.pause(self._account.world.boot)
        given = node.pool.spec.get("startTask")
        with self._account.lock:
            stuck = self._account.stuck.get(node.pool.id.lower())
            if life.is_set() or node.leaving:
                return
            node.booted = now()
            if stuck is not None:
                node.errors = [STUCK[stuck]]
                self._account.force_node(node, stuck)
                return
            self._account.force_node(node, "waitingforstarttask" if given else "idle")
        if given:
            self._start(node, given)

    def _start(self, node: Node, given: Json) -> None:
        """The start task, tried again as it says."""
        life, retries = node.lost, 0
        begin = stamp(now())
        while True:
            code, failure = self.run_start_task(node, given) if self._account.world.start_tasks else (0, None)
            if failure is None or not (retries < given.get("maxTaskRetryCount", 0) or given.get("maxTaskRetryCount", 0) < 0) or life.is_set():
                break
            retries += 1
        with self._account.lock:
            if life.is_set() or node.leaving:
                return
            result = "failure" if failure else "success"
            node.start = {"state": "completed", "startTime": begin, "endTime": stamp(now()), "retryCount": retries, "result": result}
            if code is not None:
                node.start["exitCode"] = code
            if failure is not None:
                node.start["failureInfo"] = failure
            failed = failure is not None and given.get("waitForSuccess", True)
            self._account.force_node(node, "starttaskfailed" if failed else "idle")

    def destroy(self, node: Node) -> None:
        """Nothing runs on it any more; its tasks are still its own."""
        node.lost.set()
        self.erase(node)

    def retire(self, node: Node) -> None:
        """Out of its pool; what ran there runs elsewhere, or has ended."""

        def retire() -> None:
            self.destroy(node)
            with self._account.lock:
                for run in list(node.runs.values()):
                    self._account.requeue(run, asked=True)
                self._account.remove(node)

        self.threads.spawn(retire)

    def close(self) -> None:
        """All nodes are lost. The scheduler must have been closed before."""
        self.threads.end()
        with self._account.lock:
            nodes = [node for pool in self._account.pools.values() for node in pool.nodes.values()]
        for node in nodes:
            with contextlib.suppress(OSError):
                self.destroy(node)
        self.threads.join()
