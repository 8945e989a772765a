"""The Kubernetes backend: attempts are Jobs, looked at through one watch of all of them.

It must never conclude from silence: what the board does not hold, or holds no more, is asked for by name before it is told to be gone, the pod of a
Job that is over as well: the watch of pods may be behind that of Jobs. While the watches are not fresh there is no news of anything.
"""

from __future__ import annotations

import collections
import concurrent.futures
import datetime
import logging
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from tes_server import errors, structs, telemetry
from tes_server.backends.base import Job
from tes_server.backends.kubernetes import calls, names, render, tails
from tes_server.backends.kubernetes.board import Board
from tes_server.backends.kubernetes.calls import Calls
from tes_server.backends.kubernetes.classify import classify
from tes_server.backends.kubernetes.objects import EventObject, JobObject, Metadata, PodObject
from tes_server.backends.kubernetes.program import Keeper
from tes_server.backends.kubernetes.seen import Bounds, Look, Seen, Stop
from tes_server.backends.kubernetes.site import Site
from tes_server.backends.kubernetes.submit import Submission, lacks_order, stopped, unkept
from tes_server.backends.kubernetes.watch import Watch
from tes_server.filer import spool
from tes_server.filer.spool import Spool
from tes_server.model import run
from tes_server.model.run import Handle, Later, Observation, Phase, Reason, Refusal, Report, Tails
from tes_server.plan.policy import Capabilities
from tes_server.plan.steps import Plan
from tes_server.runner import pod_report
from tes_server.telemetry import Code

logger = logging.getLogger(__name__)

THREADS = 8
"""Requests side by side."""

YOUNG = 20.0
"""Seconds after its submit in which a Job that the watch has not shown yet is not asked for."""

RELEASED = 50_000
"""Attempts that were released last and are remembered while their Jobs wait for their TTL."""

LOG_PATIENCE = 120.0
"""Seconds after the end of a pod in which its node has to tell the whole of a long output; the message has the ends of it."""

LARGEST_LOG = 64 * 1024 * 1024
"""Bytes of a log that is read for a report: far above any."""

T = TypeVar("T")
U = TypeVar("U")

News = Callable[[Collection[str]], None]


class KubernetesBackend:
    """Backend of one namespace. `bounds` says how long the platform may wait; `clock` judges that until the cluster has told its own time."""

    name = "kubernetes"
    place = ""
    """every process reaches the cluster"""

    def __init__(
        self,
        server: Calls,
        site: Site,
        capabilities: Capabilities,
        clock: Callable[[], datetime.datetime],
        *,
        bounds: Bounds | None = None,
        kept: Spool | None = None,
    ) -> None:
        self.capabilities = capabilities
        self._calls = server
        self._site = site
        self._clock = clock
        self._bounds = bounds or Bounds()
        self._spool = kept
        space = calls.part(site.namespace)
        core = f"/api/v1/namespaces/{space}"
        self._jobs, self._pods, self._secrets = f"/apis/batch/v1/namespaces/{space}/jobs", f"{core}/pods", f"{core}/secrets"
        self._board = Board()
        ours = f"{names.MANAGED}={names.MANAGER},{names.SERVER}={site.server}"
        self._job_watch = Watch(server, self._jobs, JobObject, self._board.put_job, self._board.drop_job, self._listed, labelSelector=ours)
        self._pod_watch = Watch(server, self._pods, PodObject, self._board.put_pod, self._board.drop_pod, self._board.replace_pods, labelSelector=ours)
        self._event_watch = Watch(server, f"{core}/events", EventObject, self._board.put_event, lambda _: None, self._warned, fieldSelector="type=Warning")
        self._program = Keeper(server, site.namespace, site.program) if site.program else None
        self._pool = concurrent.futures.ThreadPoolExecutor(THREADS, thread_name_prefix="kubernetes")
        self._sent: dict[str, float] = {}
        self._released: collections.OrderedDict[str, None] = collections.OrderedDict()
        self._former: frozenset[str] | None = None
        self._stuck: dict[str, float] = {}

    # -- life -------------------------------------------------------------------------------------------------------

    def resume(self) -> None:
        """Begin to watch. Returns at once; until all is listed there is no news of anything."""
        structs.settle()
        for watch in (self._job_watch, self._pod_watch, self._event_watch):
            watch.start()

    def wait(self, seconds: float) -> None:
        """Until all is listed, so that what is asked first has an answer; no longer than this, for the cluster may be away."""
        until = time.monotonic() + seconds
        for watch in (self._job_watch, self._pod_watch):
            watch.wait(max(0.0, until - time.monotonic()))

    def close(self) -> None:
        """Stop threads and connections."""
        for watch in (self._job_watch, self._pod_watch, self._event_watch):
            watch.stop()
        self._pool.shutdown()
        self._calls.close()

    def listen(self, news: News) -> None:
        """Whatever the watches show is told at once."""
        self._board.changed = news

    @property
    def fresh(self) -> bool:
        """True if the board is as the cluster is. Warnings only explain: they are not waited for."""
        return self._job_watch.fresh and self._pod_watch.fresh

    # -- the protocol -----------------------------------------------------------------------------------------------

    def render(self, plan: Plan) -> Job:
        """See `render.render`."""
        return render.render(plan, self._site)

    def submit(self, jobs: Sequence[Job]) -> Mapping[str, Handle | Refusal | Later]:
        """One create for each, and one for each Secret of a long order."""
        # No call begins that might not end within the window.
        until = time.monotonic() + self.capabilities.submit_window - calls.CONNECT - calls.READ
        submission = Submission(self._calls, self._site.namespace, self.name, lambda: time.monotonic() < until, self._program)
        now = time.monotonic()
        self._sent = {name: sent for name, sent in self._sent.items() if now - sent < YOUNG} | {job.name: now for job in jobs}
        answers = dict(zip((job.name for job in jobs), self._each(submission.send, jobs), strict=True))
        return {name: answer for name, answer in answers.items() if answer is not None}

    def find(self, names: Collection[str]) -> Mapping[str, Handle]:
        """Asked for one by one, never from the board: whoever asks does so because something was lost."""
        asked = list(names)
        return {name: Handle(self.name, name) for name, job in zip(asked, self._each(self._found, asked), strict=True) if job is not None}

    def observe(self, handles: Sequence[Handle]) -> Mapping[Handle, Observation]:
        """From the board; a call only for what it does not know, for a long report, and to end what has waited too long."""
        if not self.fresh:
            return {handle: Observation(phase=Phase.UNKNOWN) for handle in handles}
        now = self._now()
        known = [self._seen(handle.name) for handle in handles]
        listed = sum(seen is not None and _lacks_pod(seen) for seen in known) > THREADS
        if listed:  # after a gap, or where a crowd was stopped in a queue: one list for all of them; what has no pod then has none
            self._pod_watch.ask()
            known = [self._seen(handle.name) for handle in handles]
        looks = [classify(seen, now, self._bounds) if seen else None for seen in known]
        # Few of them need a word with the cluster: these go side by side.
        released = [handle.name in self._released for handle in handles]
        rest = [
            place
            for place, (seen, look) in enumerate(zip(known, looks, strict=True))
            if not released[place] and (seen is None or look is None or look.stop or (_lacks_pod(seen) and not listed) or self._lacks_report(look))
        ]
        for place, look in zip(rest, self._each(lambda place: self._look(handles[place].name, now, listed=listed), rest), strict=True):
            looks[place] = look
        return {handle: look.observation for handle, look in zip(handles, looks, strict=True) if look is not None}

    def tail(self, handles: Sequence[Handle]) -> Mapping[Handle, Tails]:
        """From the logs of the pods, one read each."""
        pods = {handle: seen.pod for handle in handles if (seen := self._board.seen(handle.name)) and seen.pod and not seen.gone}
        read = self._each(lambda pod: tails.read(self._calls, self._pods, pod), pods.values())
        return {handle: tail for handle, tail in zip(pods, read, strict=True) if tail is not None}

    def cancel(self, handles: Sequence[Handle]) -> None:
        """One patch for each that has not ended."""
        stop = Stop(reason=Reason.CANCELED, code=Code.CANCELED, message="stopped")
        self._each(lambda handle: self._stop(handle.name, stop), handles)

    def release(self, handles: Sequence[Handle]) -> None:
        """Secrets, claims and what is in the spool are given back; the Job goes with its TTL, and with it what is not known here any more."""
        self._each(lambda handle: self._give_back(handle.name), handles)
        for handle in handles:
            self._released[handle.name] = None
        while len(self._released) > RELEASED:
            self._released.popitem(last=False)

    def survey(self) -> Iterator[Handle]:
        """All Jobs that are not over, and those that ended since we began and were not released."""
        if not self.fresh:
            raise errors.Unavailable("the cluster has not told yet what there is")
        former = self._former or frozenset()
        jobs = self._board.jobs()
        self._remove_stuck(jobs)
        for job in jobs:
            ours = names.ATTEMPT_NAME.fullmatch(job.metadata.name)  # a copy of one, under a name that somebody liked better, is not
            if ours and job.metadata.name not in self._released and job.metadata.uid not in former:
                yield Handle(self.name, job.metadata.name)

    def room(self) -> None:
        """The cluster queues by itself."""
        return

    # -- looks ------------------------------------------------------------------------------------------------------

    def _now(self) -> datetime.datetime:
        """By the cluster's clock, whose times we compare: ours may be another."""
        return self._calls.now() or self._clock()

    def _seen(self, name: str) -> Seen | None:
        """What is known of an attempt; None if that must be asked for."""
        if name in self._released:
            return Seen()
        seen = self._board.seen(name)
        if seen is not None:
            self._sent.pop(name, None)  # what the watch has shown, and shows no more, is asked for
            return seen
        sent = self._sent.get(name)
        young = sent is not None and time.monotonic() - sent < YOUNG
        return Seen(job=JobObject(metadata=Metadata(name=name, creation_timestamp=self._now()))) if young else None

    def _look(self, name: str, now: datetime.datetime, *, listed: bool) -> Look | None:
        """One look with whatever calls it needs; `listed`: all pods were just asked for. None: no news, since the cluster or the spool does not answer."""
        try:
            seen = self._seen(name)
            if seen is None:
                job = self._ask(name)
                if job is not None:
                    self._board.put_job(job)
                seen = self._board.seen(name) or Seen(job=job)
            if _lacks_pod(seen) and not listed:
                self._pod_watch.ask(f"{names.JOB_NAME}={name}")
                seen = self._board.seen(name) or seen
            look = classify(seen, now, self._bounds)
            if look.stop is not None:
                self._stop(name, look.stop)
            if self._lacks_report(look):
                look = classify(self._with_report(name, seen, look, now), now, self._bounds)
        except errors.TesServerError as cause:
            telemetry.log(logger, logging.WARNING, "kubernetes.look.failed", attempt=name, error=str(cause))
            return None
        return look

    def _lacks_report(self, look: Look) -> bool:
        seen = look.observation
        lost = seen.phase is Phase.GONE or (seen.phase is Phase.ENDED and seen.report is None)
        return look.elsewhere is not None or bool(look.container) or (self._spool is not None and lost)

    def _with_report(self, name: str, seen: Seen, look: Look, now: datetime.datetime) -> Seen:
        """With what could be had of a report that is not, or not all, in the pod's status."""
        known = look.observation.report
        if known is not None and known.end_time is not None and seen.pod is not None and look.container:
            try:
                return msgspec.structs.replace(seen, told=tails.told(self._calls, self._pods, seen.pod, look.container))
            except errors.TesServerError:
                if (now - known.end_time).total_seconds() < LOG_PATIENCE:
                    raise
                return seen
        return msgspec.structs.replace(seen, report=self._fetch(name, seen.pod, look))

    def _fetch(self, name: str, pod: PodObject | None, look: Look) -> Report | None:
        """A report of which the pod's status has nothing."""
        if look.elsewhere is None or look.elsewhere.place == "spool":
            return self._spool.report(_attempt(name)) if self._spool else None
        if pod is None:
            return None
        return pod_report.read_body(tails.log(self._calls, self._pods, pod, look.container, limitBytes=LARGEST_LOG), look.elsewhere)

    # -- single calls -----------------------------------------------------------------------------------------------

    def _each(self, call: Callable[[T], U], items: Iterable[T]) -> list[U]:
        """One call for each, side by side. All are made; then the first error is raised."""
        futures = [self._pool.submit(call, item) for item in items]
        concurrent.futures.wait(futures)
        return [future.result() for future in futures]

    def _ask(self, name: str) -> JobObject | None:
        """The Job of a name; None if the cluster denies it."""
        answer = self._calls.get(f"{self._jobs}/{calls.part(name)}")
        if answer.status == 404:
            return None
        if answer.status != 200:
            calls.refuse(answer, f"Job {name} cannot be read")
        return calls.decoded(answer, JobObject)

    def _found(self, name: str) -> JobObject | None:
        """As `_ask`; a Job whose submission was cut off before its order was kept is stopped."""
        job = self._ask(name)
        if job is not None and lacks_order(self._calls, self._secrets, job):
            self._stop(name, unkept("who submitted it ended in between"))
        return job

    def _stop(self, name: str, stop: Stop) -> None:
        seen = self._board.seen(name)
        if seen is not None and seen.job is not None and seen.job.finished:
            return
        answer = self._calls.patch(f"{self._jobs}/{calls.part(name)}", stopped(stop))
        if answer.status == 404:
            # Deleted by somebody, who may have left the pod without its Job.
            if seen is not None and seen.pod is not None and not seen.gone:
                self._delete(f"{self._pods}/{calls.part(seen.pod.metadata.name)}")
            return
        if answer.status != 200:
            calls.refuse(answer, f"Job {name} cannot be stopped")
        self._board.put_job(calls.decoded(answer, JobObject))  # before the watch tells: it is not stopped again meanwhile

    def _give_back(self, name: str) -> None:
        if self._spool is not None:
            self._spool.sweep(_attempt(name))
        seen = self._board.seen(name)
        if seen is None or seen.job is None:
            return
        notes = seen.job.metadata.annotations
        for number in range(names.count(notes.get(names.SECRETS, ""))):
            self._delete(f"{self._secrets}/{calls.part(names.secret(name, number))}")
        if names.CLAIM in notes and seen.pod is not None and not seen.gone:
            self._delete(f"{self._pods}/{calls.part(seen.pod.metadata.name)}")

    def _remove_stuck(self, jobs: Iterable[JobObject]) -> None:
        """Jobs that were stopped in a queue, before they began: they never end, and no TTL takes them."""
        now = time.monotonic()
        stuck = {job.metadata.uid: job.metadata.name for job in jobs if job.spec.suspend and not job.finished and names.STOPPED in job.metadata.annotations}
        self._stuck = {uid: self._stuck.get(uid, now) for uid in stuck}
        for uid, since in self._stuck.items():
            if now - since >= self._site.ttl:
                self._delete(f"{self._jobs}/{calls.part(stuck[uid])}", {"propagationPolicy": "Background", "preconditions": {"uid": uid}})

    def _delete(self, path: str, options: Mapping[str, Any] | None = None) -> None:
        answer = self._calls.delete(path, options)
        if answer.status not in (200, 202, 404):
            calls.refuse(answer, f"{path} cannot be deleted")

    def _listed(self, jobs: Iterable[JobObject]) -> None:
        """What had ended before our first look is its TTL's affair."""
        found = list(jobs)
        if self._former is None:
            self._former = frozenset(job.metadata.uid for job in found if job.finished)
        self._board.replace_jobs(found)

    def _warned(self, events: Iterable[EventObject]) -> None:
        for event in events:
            self._board.put_event(event)


def _lacks_pod(seen: Seen) -> bool:
    """Its Job is over, or was stopped, and no pod of it was ever shown: what there is of it must be asked for."""
    return seen.pod is None and seen.job is not None and bool(seen.job.finished or (seen.stop and seen.job.spec.suspend))


def _attempt(name: str) -> spool.Attempt:
    return spool.Attempt(run.task_of(name), int(name.rpartition("-")[2]))
