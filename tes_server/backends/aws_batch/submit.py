"""One attempt put onto AWS Batch: its plan into the spool, its job definition made sure of, SubmitJob, and what refusals mean."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from tes_server import errors
from tes_server.backends.aws_batch.calls import Calls, NotSent, Refused, Silent
from tes_server.backends.aws_batch.definition import Object
from tes_server.backends.aws_batch.render import Rendered
from tes_server.backends.base import Job
from tes_server.filer.spool import Attempt, Spool
from tes_server.model.run import Later, Reason, Refusal
from tes_server.telemetry import Code

PAUSE = 5.0
"""Seconds until what may pass is tried again."""

SITE_PAUSE = 60.0
"""Seconds until something that a person has to mend is tried again."""

OF_THE_SITE = ("queue", "compute environment", "jobdefinition", "job definition", "shareidentifier", "share identifier", "role")
"""Words of ClientExceptions that are about what the site set up, not about the task."""


class Submitted(NamedTuple):
    """The job that AWS Batch made."""

    job_id: str
    queue: str


class Definitions:
    """The job definitions that this process has made sure of, by name. Thread-safe."""

    def __init__(self, server: Calls) -> None:
        self._calls = server
        self._known: dict[str, str] = {}
        self._lock = threading.Lock()

    def arn(self, definition: Object) -> str:
        """An active revision; registered where there is none. The name is a hash of the content: any revision of it will do."""
        name = str(definition["jobDefinitionName"])
        with self._lock:  # one asks, the others wait for its answer
            if name not in self._known:
                there = self._calls.batch("describe_job_definitions", {"jobDefinitionName": name, "status": "ACTIVE", "maxResults": 1})["jobDefinitions"]
                made = there[0] if there else self._calls.batch("register_job_definition", definition)
                self._known[name] = str(made["jobDefinitionArn"])
            return self._known[name]

    def forget(self, definition: Object) -> None:
        """Somebody may have deregistered it."""
        with self._lock:
            self._known.pop(str(definition["jobDefinitionName"]), None)


class Submission:
    """Submits attempts. `time_left` tells whether another call may still begin within the submit window."""

    def __init__(self, server: Calls, definitions: Definitions, kept: Spool, time_left: Callable[[], bool]) -> None:
        self._calls = server
        self._definitions = definitions
        self._spool = kept
        self._time_left = time_left

    def send(self, job: Job) -> Submitted | Refusal | Later | None:
        """None: nobody knows whether it is there."""
        if not self._time_left():
            return Later(Code.WAITING_BACKEND, "AWS Batch answers too slowly for all that are to start", PAUSE)
        rendered = msgspec.json.decode(job.body, type=Rendered)
        attempt = Attempt(rendered.plan.task_id, rendered.plan.attempt)
        try:
            self._spool.put_plan(attempt, rendered.plan)
        except errors.Unavailable as cause:
            return Later(Code.WAITING_BACKEND, cause.public, PAUSE)
        answer = self._submit(rendered)
        return self._given_up(attempt, answer) if isinstance(answer, Later | Refusal) else answer

    def _submit(self, rendered: Rendered) -> Submitted | Refusal | Later | None:
        try:
            arn = self._definitions.arn(rendered.definition)
        except Refused as cause:
            return _judged(cause, of_site=True)
        except errors.Unavailable as cause:
            return Later(Code.WAITING_BACKEND, cause.public, PAUSE)
        if not self._time_left():
            return Later(Code.WAITING_BACKEND, "AWS Batch answers too slowly for all that are to start", PAUSE)
        try:
            answer = self._calls.batch("submit_job", {**rendered.request, "jobDefinition": arn})
        except NotSent as cause:
            return Later(Code.WAITING_BACKEND, cause.public, PAUSE)
        except Silent:
            return None
        except Refused as cause:
            if cause.status >= 500:
                return None
            if cause.ours:
                self._definitions.forget(rendered.definition)
            return _judged(cause, of_site=any(word in cause.public.lower() for word in OF_THE_SITE))
        return Submitted(str(answer["jobId"]), str(rendered.request["jobQueue"]))

    def _given_up(self, attempt: Attempt, answer: Refusal | Later) -> Refusal | Later | None:
        """No job of the attempt may begin any more: a try that was repeated by the SDK may have made one before the last was refused."""
        try:
            self._spool.withdraw(attempt)
            return answer if self._spool.started(attempt) is None else None
        except errors.Unavailable:
            return None


def _judged(cause: Refused, *, of_site: bool) -> Refusal | Later:
    """What a call that was answered with an error comes to."""
    if cause.faulty and not of_site:
        return Refusal(Reason.REJECTED, Code.REJECTED, cause.public)
    return Later(Code.WAITING_BACKEND, cause.public, PAUSE if cause.throttled or cause.status >= 500 else SITE_PAUSE)
