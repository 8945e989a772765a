"""Job state changes from EventBridge by way of an SQS queue, in a thread of its own: only a hint, looks keep everything right.

Several reconcilers may read one queue: what is for another is given back for it. This module must never ask AWS Batch.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from typing import Any

import msgspec

from tes_server import errors, telemetry
from tes_server.backends.aws_batch import calls
from tes_server.backends.aws_batch.calls import Calls
from tes_server.backends.aws_batch.objects import Event, JobDetail

logger = logging.getLogger(__name__)

KINDS = frozenset({"Batch Job State Change", "Batch Job Queue Blocked"})
"""Of both the detail has the shape of DescribeJobs; the second has the reason why the first job of a queue does not start."""

MOST = 10
"""Messages that SQS gives at once."""

FRESH = 60.0
"""Seconds after an answer of SQS in which the queue counts as read."""

PAUSE, LONGEST_PAUSE = 1.0, 30.0
"""Seconds after a failure; doubled each time."""

GIVEN_BACK = 12
"""Times after which a message that nobody wants is dropped: it may be of a task that is over, or of another server on the queue."""

Take = Callable[[JobDetail], bool]
"""Told of a job; False if it is none that is looked after here."""


class Events:
    """From `start` to `stop`."""

    def __init__(self, server: Calls, queue: str, take: Take) -> None:
        self._calls = server
        self._queue = queue
        self._take = take
        self._stopped = threading.Event()
        self._answered = 0.0
        self._thread = threading.Thread(target=self._loop, name="aws-events", daemon=True)

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def stop(self) -> None:
        """End. A long poll that is under way is left to itself: what it brings comes again."""
        self._stopped.set()

    @property
    def fresh(self) -> bool:
        """The queue is being read."""
        return bool(self._answered) and time.monotonic() - self._answered < FRESH

    def _loop(self) -> None:
        pause = PAUSE
        while not self._stopped.is_set():
            try:
                self.turn()
                pause = PAUSE
                continue
            except errors.Unavailable as cause:
                telemetry.log(logger, logging.WARNING, "aws.events.failed", error=str(cause), again_in=round(pause, 1))
            except Exception:  # a fault of ours: this thread is all that hears of events
                logger.exception("aws.events.failed")
            self._stopped.wait(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    def turn(self) -> None:
        """One long poll, and what it brings."""
        request = {
            "QueueUrl": self._queue,
            "MaxNumberOfMessages": MOST,
            "WaitTimeSeconds": calls.POLL,
            "MessageSystemAttributeNames": ["ApproximateReceiveCount"],
        }
        messages = self._calls.sqs("receive_message", request).get("Messages", [])
        self._answered = time.monotonic()
        if self._stopped.is_set():
            return
        done: list[dict[str, Any]] = []
        others: list[dict[str, Any]] = []
        for message in messages:
            (done if self._told(message) else others).append(message)
        if done:
            entries = [{"Id": str(number), "ReceiptHandle": message["ReceiptHandle"]} for number, message in enumerate(done)]
            self._calls.sqs("delete_message_batch", {"QueueUrl": self._queue, "Entries": entries})
        if others:
            # Soon, and not at once: whoever it is for may be between two polls.
            entries = [
                {"Id": str(number), "ReceiptHandle": message["ReceiptHandle"], "VisibilityTimeout": random.randint(0, 2)}  # noqa: S311 - spreads, no secret
                for number, message in enumerate(others)
            ]
            self._calls.sqs("change_message_visibility_batch", {"QueueUrl": self._queue, "Entries": entries})

    def _told(self, message: dict[str, Any]) -> bool:
        """True if the message is done with."""
        job = read(message.get("Body", ""))
        if job is None or self._take(job):
            return True
        return int(message.get("Attributes", {}).get("ApproximateReceiveCount", GIVEN_BACK)) >= GIVEN_BACK


def read(body: str) -> JobDetail | None:
    """The job that an event tells of; None if it is of another kind, or cannot be read."""
    try:
        event = msgspec.json.decode(body, type=Event)
        return msgspec.json.decode(event.detail, type=JobDetail, strict=False) if event.kind in KINDS else None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as cause:
        telemetry.log(logger, logging.WARNING, "aws.event.spoiled", error=str(cause))
        return None
