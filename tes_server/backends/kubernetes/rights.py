"""Whether a cluster lets this server do what it must, asked before any task needs it. Changes nothing there."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from tes_server import errors
from tes_server.backends.base import Job
from tes_server.backends.kubernetes import calls
from tes_server.backends.kubernetes.calls import Calls
from tes_server.backends.kubernetes.render import Rendered


class Right(NamedTuple):
    """Verbs that are needed on one resource; docs/kubernetes.md says what for."""

    group: str
    resource: str
    verbs: tuple[str, ...]

    @property
    def words(self) -> str:
        """As an administrator writes it."""
        return f"{', '.join(self.verbs)} {self.resource}"


NEEDED = (
    Right("batch", "jobs", ("get", "list", "watch", "create", "patch", "delete")),
    Right("", "pods", ("list", "watch", "delete")),
    Right("", "pods/log", ("get",)),
    Right("", "events", ("list", "watch")),
    Right("", "secrets", ("create", "delete")),
)

FOR_ALONE = Right("", "configmaps", ("get", "create"))
"""Of pods of one container."""

REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
"""Answers whoever is signed in (the cluster role system:basic-user)."""


class _Status(msgspec.Struct, frozen=True):
    allowed: bool = False


class _Review(msgspec.Struct, frozen=True):
    status: _Status = _Status()


def check(server: Calls, namespace: str, job: Job) -> None:
    """Ask for each right, then for `job` in a dry run, which meets the namespace, quotas and admission. Raises Unavailable or EngineError with the fault."""
    rendered = msgspec.json.decode(job.body, type=Rendered)
    needed = (*NEEDED, FOR_ALONE) if rendered.alone else NEEDED
    missing = [lacks for right in needed if (lacks := Right(right.group, right.resource, _denied(server, namespace, right))).verbs]
    if missing:
        raise errors.Unavailable(f"this server may not {'; '.join(right.words for right in missing)}: docs/kubernetes.md has the Role that it needs")
    path = f"/apis/batch/v1/namespaces/{calls.part(namespace)}/jobs"
    answer = server.post(path, rendered.job, dryRun="All")
    if answer.status != 201:
        calls.refuse(answer, "no task's Job can be made there")


def _denied(server: Calls, namespace: str, right: Right) -> tuple[str, ...]:
    return tuple(verb for verb in right.verbs if not _may(server, namespace, right, verb))


def _may(server: Calls, namespace: str, right: Right, verb: str) -> bool:
    resource, _, part = right.resource.partition("/")
    asked = {"namespace": namespace, "group": right.group, "resource": resource, "subresource": part, "verb": verb}
    answer = server.post(REVIEWS, {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "spec": {"resourceAttributes": asked}})
    if answer.status == 401:
        raise errors.Unavailable(f"the cluster does not accept this server's credentials: {answer.words}")
    if answer.status != 201:
        calls.refuse(answer, "the cluster does not say what this server may do")
    return calls.decoded(answer, _Review).status.allowed
