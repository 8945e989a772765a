"""EventBridge: each state change of a job, and each that blocks its queue, becomes a message in SQS; duplicated, swapped, dropped or late on demand."""

from __future__ import annotations

import dataclasses
import datetime
import json
import threading
import time
import uuid

from tests.emulators.aws_batch.protocol import Json
from tests.emulators.aws_batch.sqs import Queue
from tests.emulators.aws_batch.world import ACCOUNT, REGION

SWAPPED = 2.0
"""Seconds after which an event that waits to be swapped with the next one goes alone."""


@dataclasses.dataclass(frozen=True)
class Sent:
    """One message that was put into the queue; `at` is wall clock, seconds. `blocked`: it is not of a new state, but of a queue that waits for the job."""

    job: str
    status: str
    at: float
    blocked: bool = False


@dataclasses.dataclass
class Trouble:
    """What happens to events: each field a number of events that it is still done to (-1 = all), of those with `statuses` (empty = any)."""

    duplicate: int = 0
    swap: int = 0
    drop: int = 0
    delay: float = 0.0
    """seconds that every event is late"""
    statuses: tuple[str, ...] = ()

    def due(self, name: str, status: str) -> bool:
        """Whether it is to be done now; counts it."""
        left = getattr(self, name)
        if not left or (self.statuses and status not in self.statuses):
            return False
        if left > 0:
            setattr(self, name, left - 1)
        return True


STATE = "Batch Job State Change"
BLOCKED = "Batch Job Queue Blocked"


class Bridge:
    """A rule that matches both kinds, with its one target. Safe for threads."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._lock = threading.Lock()
        self._trouble = Trouble()
        self._waiting: tuple[Json, float] | None = None
        """an event that goes after the next one, at this time at the latest"""
        self.sent: list[Sent] = []
        self.dropped = 0

    def trouble(self, trouble: Trouble) -> None:
        """What happens to events from now on; `Trouble()` = nothing."""
        with self._lock:
            self._trouble = trouble

    def publish(self, detail: Json, *, blocked: bool = False) -> None:
        """Tell of a job's new state, or of why it cannot start and holds up its queue."""
        event = {
            "version": "0",
            "id": str(uuid.uuid4()),
            "detail-type": BLOCKED if blocked else STATE,
            "source": "aws.batch",
            "account": ACCOUNT,
            "time": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "region": REGION,
            "resources": [detail["jobArn"], *([detail["jobQueue"]] if blocked else [])],
            "detail": detail,
        }
        with self._lock:
            status = detail["status"]
            if self._trouble.due("drop", status):
                self.dropped += 1
                return
            if self._waiting is None and self._trouble.due("swap", status):
                self._waiting = event, time.monotonic() + SWAPPED
                return
            self._put(event, twice=self._trouble.due("duplicate", status))
            if self._waiting is not None:
                (late, _), self._waiting = self._waiting, None
                self._put(late, twice=False)

    def tick(self) -> None:
        """Send what has waited long enough for an event to be swapped with."""
        with self._lock:
            if self._waiting is not None and self._waiting[1] <= time.monotonic():
                (late, _), self._waiting = self._waiting, None
                self._put(late, twice=False)

    def _put(self, event: Json, *, twice: bool) -> None:
        body = json.dumps(event)
        for _ in range(1 + twice):
            message = self._queue.put(body, self._trouble.delay)
            job = event["detail"]
            self.sent.append(Sent(job["jobId"], job["status"], message.sent + self._trouble.delay, event["detail-type"] == BLOCKED))
