"""One attempt put onto the cluster: its Job, its Secrets, and what the server's refusals mean."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from tes_server import errors
from tes_server.backends.base import Job
from tes_server.backends.kubernetes import calls, names
from tes_server.backends.kubernetes.calls import Answer, Calls
from tes_server.backends.kubernetes.objects import JobObject
from tes_server.backends.kubernetes.program import Keeper
from tes_server.backends.kubernetes.render import Object, Rendered
from tes_server.backends.kubernetes.seen import Stop
from tes_server.model.run import Handle, Later, Reason, Refusal
from tes_server.telemetry import Code

TRIES = 3
"""Times that a create is sent while its outcome is unknown: its name is taken once at most, so that no try does harm."""

QUOTA_PAUSE = 15.0
"""Seconds until a full quota is tried again."""

PAUSE = 5.0
"""Seconds until anything else that may pass is tried again."""


class Submission:
    """Creates attempts. `time_left` tells whether another call may still begin within the submit window; `program` keeps what pods of one container need."""

    def __init__(self, server: Calls, namespace: str, name: str, time_left: Callable[[], bool], program: Keeper | None = None) -> None:
        self._calls = server
        self._jobs = f"/apis/batch/v1/namespaces/{calls.part(namespace)}/jobs"
        self._secrets = f"/api/v1/namespaces/{calls.part(namespace)}/secrets"
        self._backend = name
        self._time_left = time_left
        self._program = program

    def send(self, job: Job) -> Handle | Refusal | Later | None:
        """None: nobody knows whether it is there."""
        if not self._time_left():
            return Later(Code.WAITING_BACKEND, "the cluster answers too slowly for all that are to start", PAUSE)
        rendered = msgspec.json.decode(job.body, type=Rendered)
        if rendered.alone and (later := self._without_program()) is not None:
            return later
        try:
            answer = self._create(self._jobs, rendered.job)
        except calls.NotSent as cause:
            return Later(Code.WAITING_BACKEND, cause.public, PAUSE)
        if answer is None:
            return None
        if answer.status == 409 and answer.reason == "AlreadyExists":
            answer = self._calls.get(f"{self._jobs}/{job.name}")
        if answer.status not in (200, 201):
            return judge(answer)
        made = calls.decoded(answer, JobObject)
        if made.metadata.labels.get(names.SERVER) != rendered.job["metadata"]["labels"][names.SERVER]:
            return Refusal(Reason.REJECTED, Code.REJECTED, f"the cluster has a Job {job.name} that is not this server's")
        if rendered.secrets:
            self._keep_order(rendered, made)
        return Handle(self._backend, job.name)

    def _without_program(self) -> Later | None:
        """A pod that could not mount its ConfigMap would only wait."""
        try:
            refused = self._program.refusal() if self._program else None
        except errors.Unavailable as cause:
            return Later(Code.WAITING_BACKEND, cause.public, PAUSE)
        if refused is None:
            return None
        return Later(Code.WAITING_BACKEND, f"the ConfigMap with tes-step cannot be made: {refused.words}", refused.retry_after or PAUSE)

    def _create(self, path: str, body: Object) -> Answer | None:
        """What the server said; None if nobody knows what came of it. NotSent if nothing did."""
        for number in range(TRIES):
            if not self._time_left():
                break
            try:
                answer = self._calls.post(path, body)
            except calls.NotSent:
                if number:
                    break  # an earlier one may have been done
                raise
            except errors.Unavailable:
                continue
            if answer.status < 500:
                return answer
        return None

    def _keep_order(self, rendered: Rendered, job: JobObject) -> None:
        """The Secrets, which the pod waits for. A Job that cannot have them is stopped: it would wait for ever."""
        owner = {"apiVersion": "batch/v1", "kind": "Job", "name": job.metadata.name, "uid": job.metadata.uid, "blockOwnerDeletion": False, "controller": False}
        for secret in rendered.secrets:
            body = {**secret, "metadata": {**secret["metadata"], "ownerReferences": [owner]}}
            try:
                answer = self._create(self._secrets, body)
            except calls.NotSent:
                answer = None
            if answer is None or not (answer.status == 201 or (answer.status == 409 and answer.reason == "AlreadyExists")):
                why = answer.words if answer else "the cluster does not answer"
                self._calls.patch(f"{self._jobs}/{job.metadata.name}", stopped(unkept(why)))
                return


def lacks_order(server: Calls, secrets: str, job: JobObject) -> bool:
    """True if a Secret of its order was never made: its submission was cut off. We may not read Secrets, but a trial of its create tells."""
    notes = job.metadata.annotations
    if job.finished or names.STOPPED in notes:
        return False
    wanted = [names.secret(job.metadata.name, number) for number in range(names.count(notes.get(names.SECRETS, "")))]
    trials = (server.post(secrets, {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}}, dryRun="All") for name in wanted)
    return any(answer.status == 201 for answer in trials)


def unkept(why: str) -> Stop:
    """The end of a Job that would wait for its order for ever; another attempt follows."""
    return Stop(reason=Reason.BACKEND, code=Code.ENGINE_ERROR, message=f"the task's plan could not be kept as a Secret: {why}", transient=True)


def judge(answer: Answer) -> Refusal | Later:
    """What a create that was not accepted comes to."""
    words = answer.words
    if answer.status == 403 and "exceeded quota" in words:
        return Later(Code.WAITING_CAPACITY, words, QUOTA_PAUSE)
    if answer.status == 403 and ("cannot create resource" in words or "being terminated" in words):
        return Later(Code.WAITING_BACKEND, words, PAUSE)
    if answer.status in (401, 404, 408, 409, 429):  # 404: the namespace is gone
        return Later(Code.WAITING_BACKEND, words, answer.retry_after or PAUSE)
    return Refusal(Reason.REJECTED, Code.REJECTED, words)


def stopped(stop: Stop) -> Object:
    """The merge patch that ends a Job: it is finished and keeps its name until its TTL (docs/decisions/0013-kubernetes.md)."""
    return {"metadata": {"annotations": {names.STOPPED: msgspec.json.encode(stop).decode()}}, "spec": {"activeDeadlineSeconds": 1}}
