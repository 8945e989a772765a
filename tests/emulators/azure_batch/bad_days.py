"""Everything that goes wrong on command: by Python, and by `POST /_emulator/NAME` with the arguments as JSON."""

from __future__ import annotations

import time
from collections.abc import Sequence

from tests.emulators.azure_batch.account import Account
from tests.emulators.azure_batch.agents import STUCK, Agents
from tests.emulators.azure_batch.docker_agents import DockerAgents
from tests.emulators.azure_batch.identities import Identities, Principal
from tests.emulators.azure_batch.pretence import Pretence
from tests.emulators.azure_batch.protocol import BatchError
from tests.emulators.azure_batch.records import Node
from tests.emulators.faults import Calls, Fault

BUSY = "The server is currently unable to receive requests. Please retry your request."


class BadDays:
    """Calls are named as the SDK's methods, without `begin_`: `create_task_collection`; `*` stands for any text. Times are seconds."""

    def __init__(self, account: Account, agents: Agents, calls: Calls, identities: Identities) -> None:
        self._account = account
        self._agents = agents
        self._calls = calls
        self._identities = identities

    # -- calls -----------------------------------------------------------------------------------------------------------

    def lose_answers(self, times: int = 1, calls: str = "create_task_collection") -> None:
        """The next calls are done, and the connection is cut in place of an answer."""
        self._calls.add(Fault(calls, None, times))

    def throttle(self, calls: str = "*", every: int = 1, times: int = -1, seconds: float = float("inf"), retry_after: int = 1) -> None:
        """429 TooManyRequests with Retry-After for each n-th call."""
        words = "The request rate is too high. Please retry your request."
        error = BatchError("TooManyRequests", 429, words, retry_after=retry_after)
        self._calls.add(Fault(calls, error, times, every, time.monotonic() + seconds))

    def busy(self, calls: str = "*", every: int = 1, times: int = -1, seconds: float = float("inf"), retry_after: int = 1) -> None:
        """503 ServerBusy with Retry-After for each n-th call."""
        self._calls.add(Fault(calls, BatchError("ServerBusy", 503, BUSY, retry_after=retry_after), times, every, time.monotonic() + seconds))

    def fail(self, calls: str = "*", every: int = 1, times: int = -1, seconds: float = float("inf")) -> None:
        """500 InternalError for each n-th call."""
        error = BatchError("InternalError", 500, "The server encountered an internal error. Please retry the request.")
        self._calls.add(Fault(calls, error, times, every, time.monotonic() + seconds))

    def refuse(self, calls: str, code: str, message: str, status: int = 400, times: int = 1) -> None:
        """Any other error."""
        self._calls.add(Fault(calls, BatchError(code, status, message), times))

    def deny(self, client: str, operations: Sequence[str], secret: str = "denied-secret") -> None:
        """An application, or a managed identity, that may not do these."""
        self._identities.add(Principal(client, secret, tuple(operations)))

    def expire_tokens(self) -> None:
        """Those that were given out so far are good no more."""
        self._identities.expire()

    def mend(self) -> None:
        """All is well again, except for what is lost: new nodes start, images can be had."""
        self._calls.mend()
        self._agents.slow = 0.0
        self._agents.broken.clear()
        with self._account.lock:
            self._account.stuck.clear()
            self._account.quota.clear()
            for pool in self._account.pools.values():
                if pool.errors:
                    pool.errors = []
                    pool.allocation = "resizing"
            self._account.lock.notify_all()

    # -- tasks -----------------------------------------------------------------------------------------------------------

    def fail_image(self, image: str, code: str = "ContainerInvalidImage") -> None:
        """Tasks of this image end without having run."""
        self._agents.broken[image] = code

    def kill_runner(self, job: str, task: str) -> None:
        """KILL a task's own container; what it has started lives on."""
        run = self._account.task(job, task).run
        assert run is not None, f"{task} does not run"
        assert isinstance(self._agents, DockerAgents), "nothing runs here"
        self._agents.kill(run)

    def finish(self, job: str, task: str, code: int = 0) -> None:
        """A task that only pretends to run has ended."""
        assert isinstance(self._agents, Pretence), "tasks run here: they end by themselves"
        self._agents.finish(self._account.task(job, task), code)

    def slow_stop(self, seconds: float) -> None:
        """What is to be stopped is stopped so much later."""
        self._agents.slow = seconds

    # -- nodes -----------------------------------------------------------------------------------------------------------

    def preempt(self, node: str = "", *, told: float = 0.0, restore: float | None = -1.0) -> str:
        """Take a Spot node away (without a name: the busiest); its id. It is dead at once, its tasks are active again `told` seconds later.

        After `restore` seconds (usually the world's; None: never) the node is back, with its old id and an empty disk.
        """
        with self._account.lock:
            found = self._node(node)
            self._account.force_node(found, "preempted")
        after = self._account.world.restore if restore == -1.0 else restore
        self._agents.threads.spawn(lambda: self._preempt(found, told, after))
        return found.id

    def _preempt(self, node: Node, told: float, restore: float | None) -> None:
        self._agents.destroy(node)
        self._agents.threads.pause(told)
        self._requeue(node)
        if restore is None:
            return
        self._agents.threads.pause(restore)
        with self._account.lock:
            if node.state == "preempted" and not node.leaving:
                self._account.force_node(node, "creating")
                self._account.boot(node)

    def lose(self, node: str = "", *, alive: bool = False, told: float = 0.0) -> str:
        """A node that is unusable from now on; its id. alive: Azure Batch does not hear of it any more, but what runs there runs on."""
        with self._account.lock:
            found = self._node(node, spot=False)
            found.errors = [STUCK["unusable"]]
            self._account.force_node(found, "unusable")

        def lose() -> None:
            if not alive:
                self._agents.destroy(found)
            self._agents.threads.pause(told)
            self._requeue(found)

        self._agents.threads.spawn(lose)
        return found.id

    def _requeue(self, node: Node) -> None:
        with self._account.lock:
            for run in list(node.runs.values()):
                self._account.requeue(run)

    def _node(self, name: str, *, spot: bool = True) -> Node:
        nodes = [node for pool in self._account.pools.values() for node in pool.nodes.values()]
        if name:
            return next(node for node in nodes if node.id == name)
        fitting = [node for node in nodes if node.state in ("idle", "running") and not (spot and node.dedicated)]
        assert fitting, "there is no such node"
        return max(fitting, key=lambda node: len(node.runs))

    # -- pools -----------------------------------------------------------------------------------------------------------

    def stick(self, pool: str, state: str = "unusable") -> None:
        """New nodes of this pool become `unusable` or `starttaskfailed`."""
        assert state in STUCK, f"{state} is none of {', '.join(STUCK)}"
        with self._account.lock:
            self._account.stuck[pool.lower()] = state

    def exhaust(self, pool: str, code: str = "AccountCoreQuotaReached", message: str = "The specified account has reached core quota") -> None:
        """No further node for this pool; others that a resize tells of: AccountLowPriorityCoreQuotaReached, AllocationFailed, AllocationTimedOut."""
        with self._account.lock:
            self._account.quota[pool.lower()] = (code, message)
