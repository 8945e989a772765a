"""Everything that goes wrong on command: by Python, and by `POST /_emulator/NAME` with the arguments as JSON."""

from __future__ import annotations

import time
from collections.abc import Sequence

from tests.emulators.aws_batch import events
from tests.emulators.aws_batch.account import Account
from tests.emulators.aws_batch.agents import Agents
from tests.emulators.aws_batch.events import Bridge
from tests.emulators.aws_batch.hosts import Host
from tests.emulators.aws_batch.protocol import BROKEN, THROTTLED, AwsError
from tests.emulators.aws_batch.roles import Roles
from tests.emulators.aws_batch.signing import Keys, Principal
from tests.emulators.aws_batch.world import arn
from tests.emulators.faults import Calls, Fault


class BadDays:
    """Calls are named as `batch.SubmitJob`; `*` stands for any text. Times are seconds."""

    def __init__(self, account: Account, agents: Agents, calls: Calls, bridge: Bridge, keys: Keys, roles: Roles) -> None:
        self._account = account
        self._agents = agents
        self._calls = calls
        self._bridge = bridge
        self._keys = keys
        self._roles = roles

    # -- calls -----------------------------------------------------------------------------------------------------------

    def lose_answers(self, times: int = 1, calls: str = "batch.SubmitJob") -> None:
        """The next calls are done, and the connection is cut in place of an answer."""
        self._calls.add(Fault(calls, None, times))

    def throttle(self, calls: str = "batch.*", every: int = 1, times: int = -1, seconds: float = float("inf")) -> None:
        """429 TooManyRequestsException for each n-th call."""
        self._calls.add(Fault(calls, THROTTLED, times, every, time.monotonic() + seconds))

    def fail(self, calls: str = "batch.*", every: int = 1, times: int = -1, seconds: float = float("inf")) -> None:
        """500 ServerException for each n-th call."""
        self._calls.add(Fault(calls, BROKEN, times, every, time.monotonic() + seconds))

    def refuse(self, calls: str, code: str, message: str, status: int = 400, times: int = 1) -> None:
        """Any other error."""
        self._calls.add(Fault(calls, AwsError(code, message, status), times))

    def deny(self, key: str, actions: Sequence[str], secret: str = "denied-secret") -> None:
        """An access key whose user may not do these (`batch:SubmitJob`, `sqs:*`)."""
        user = arn("user", key.lower(), "iam").replace(":us-east-1:", "::")
        self._keys.add(key, Principal(user, secret, denied=tuple(actions)))

    def deny_role(self, role: str, actions: Sequence[str]) -> None:
        """A role whose next credentials may not do these; `role` is its ARN."""
        self._roles.denied[role] = tuple(actions)

    def mend(self) -> None:
        """Calls and events are as they should be again; jobs are held no longer."""
        self._calls.mend()
        self._bridge.trouble(events.Trouble())
        self._agents.slow = self._account.lag = 0.0
        with self._account.lock:
            for queue in list(self._account.holds):
                self.release(queue)

    # -- events ----------------------------------------------------------------------------------------------------------

    def disturb_events(self, duplicate: int = 0, swap: int = 0, drop: int = 0, delay: float = 0.0, statuses: Sequence[str] = ()) -> None:
        """So many of the next events (-1 = all) are sent twice, change places with their successor, are never sent; all are late by `delay`."""
        self._bridge.trouble(events.Trouble(duplicate, swap, drop, delay, tuple(statuses)))

    # -- jobs ------------------------------------------------------------------------------------------------------------

    def hold(
        self, queue: str, reason: str = "CAPACITY:INSUFFICIENT_INSTANCE_CAPACITY - Service cannot fulfill the capacity requested for instance type"
    ) -> None:
        """Jobs of this queue stay RUNNABLE, the one at its head with this statusReason."""
        with self._account.lock:
            self._account.holds[queue] = reason

    def release(self, queue: str) -> None:
        """They may start."""
        with self._account.lock:
            self._account.holds.pop(queue, None)
            for job in self._account.jobs.values():
                if job.queue == queue and job.status == "RUNNABLE":
                    job.reason = ""
            self._account.lock.notify_all()

    def lag(self, seconds: float) -> None:
        """ListJobs tells of a job only so long after it was submitted."""
        self._account.lag = seconds

    def slow_terminate(self, seconds: float) -> None:
        """A container that is to be stopped gets TERM so much later."""
        self._agents.slow = seconds

    def kill_runner(self, job: str) -> None:
        """KILL a job's own container; what it has started lives on."""
        self._agents.kill(self._account.jobs[job])

    # -- hosts -----------------------------------------------------------------------------------------------------------

    def reclaim(self, host: str = "", notice: float = 0.0, *, drain: bool = False, told: float = 0.0) -> str:
        """Take a host away (without a name: the Spot host with most jobs), after `notice`; its id.

        drain: its jobs' containers get TERM at the beginning of the notice (without it they may end in peace until then). What still runs on
        the host at the end of it is killed and its disk is gone, `told` seconds later its jobs are FAILED, and another host takes its place.
        """
        with self._account.lock:
            found = self._account.fleet.hosts[host] if host else self._busiest()
            found.draining = True
        if drain:
            self._agents.drain(found)
        if notice <= 0:
            self._agents.destroy(found)
        self._agents.threads.spawn(lambda: self._lose(found, notice, told))
        return found.id

    def vanish(self, host: str = "", told: float = 10.0) -> str:
        """A host that is gone at once, without a word: AWS Batch notices only `told` seconds later."""
        return self.reclaim(host, told=told)

    def _busiest(self) -> Host:
        spot = [host for host in self._account.fleet.hosts.values() if host.spot and not host.draining]
        assert spot, "there is no Spot host"
        return max(spot, key=lambda host: len(host.runs))

    def _lose(self, host: Host, notice: float, told: float) -> None:
        self._agents.threads.pause(notice)
        self._agents.destroy(host)
        self._agents.threads.pause(told)
        host.noticed.set()
        with self._account.lock:
            self._account.fleet.remove(host)
        self._agents.threads.pause(self._account.world.boot)
        with self._account.lock:
            self._account.fleet.boot(host.environment)
            self._account.lock.notify_all()
