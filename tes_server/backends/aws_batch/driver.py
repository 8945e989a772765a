"""The AWS Batch backend: attempts are jobs, heard of by events and looked at in hundreds; plans and reports go through the spool.

It must never conclude from silence: a job that DescribeJobs does not know is asked for by its name before it is told to be gone. An attempt may have
several jobs (no name is unique on AWS Batch); the one that took it in the spool counts, the others end by themselves without an effect.
"""

from __future__ import annotations

import collections
import concurrent.futures
import datetime
import logging
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeVar

from tes_server import errors, structs, telemetry
from tes_server.backends.aws_batch import names, objects, render
from tes_server.backends.aws_batch.board import Board
from tes_server.backends.aws_batch.calls import LONGEST, Calls
from tes_server.backends.aws_batch.classify import Bounds, Look, Seen, classify
from tes_server.backends.aws_batch.events import Events
from tes_server.backends.aws_batch.looks import Looks
from tes_server.backends.aws_batch.names import Stop
from tes_server.backends.aws_batch.objects import JobDetail
from tes_server.backends.aws_batch.site import Site
from tes_server.backends.aws_batch.submit import Definitions, Submission, Submitted
from tes_server.backends.base import Job
from tes_server.filer.spool import Attempt, Spool
from tes_server.model import run
from tes_server.model.run import Handle, Later, Observation, Reason, Refusal, Tails
from tes_server.plan.policy import Capabilities
from tes_server.plan.steps import Plan
from tes_server.telemetry import Code

logger = logging.getLogger(__name__)

THREADS = 16
"""Requests side by side."""

YOUNG = 120.0
"""Seconds after its submit in which a job that DescribeJobs does not know is not taken for gone."""

LATE = 60.0
"""Seconds after a change of a job in which its event should have come."""

RELEASED = 50_000
"""Attempts that were released last: late events of them are known for what they are."""

T = TypeVar("T")
U = TypeVar("U")

News = Callable[[Collection[str]], None]


class Times(NamedTuple):
    """How often jobs are asked for, in seconds: `poll` where no events come, `sweep` where they do."""

    poll: float = 30.0
    sweep: float = 600.0


class AwsBatchBackend:
    """Backend of one account and region. `events`: url of the SQS queue, "" = there is none."""

    name = "aws_batch"
    place = ""
    """every process reaches AWS"""

    def __init__(
        self,
        server: Calls,
        site: Site,
        capabilities: Capabilities,
        clock: Callable[[], datetime.datetime],
        kept: Spool,
        *,
        bounds: Bounds | None = None,
        times: Times | None = None,
        events: str = "",
    ) -> None:
        self.capabilities = capabilities
        self._calls = server
        self._site = site
        self._clock = clock
        self._spool = kept
        self._bounds = bounds or Bounds()
        self._times = times or Times()
        self._board = Board()
        self._looks = Looks(server, self._board, site.server, site.every_queue())
        self._definitions = Definitions(server)
        self._spot = {queues.spot.rpartition("/")[2] for queues in (site.queues, *site.chosen.values()) if queues.spot}
        self._pool = concurrent.futures.ThreadPoolExecutor(THREADS, thread_name_prefix="aws-batch")
        self._events = Events(server, events, self._told) if events else None
        self._missed = False
        self._news: News = lambda _: None
        self._sent: dict[str, float] = {}
        self._holder: dict[str, str] = {}
        self._released: collections.OrderedDict[str, None] = collections.OrderedDict()

    # -- life -------------------------------------------------------------------------------------------------------

    def resume(self) -> None:
        """Begin to read events."""
        structs.settle()
        if self._events is not None:
            self._events.start()

    def close(self) -> None:
        """Stop threads and connections."""
        if self._events is not None:
            self._events.stop()
        self._pool.shutdown()
        self._calls.close()

    def listen(self, news: News) -> None:
        """Whatever events tell is told at once."""
        self._news = news

    def _told(self, job: JobDetail) -> bool:
        """An event. False if it is of no attempt that is looked after here."""
        name = names.attempt(self._site.server, job.job_name)
        if not name or not (name in self._released or name in self._sent or self._board.knows(name)):
            return False
        self._missed = False
        if name not in self._released and self._board.put(name, job, time.monotonic()):
            self._news([run.task_of(name)])
        return True

    # -- the protocol -----------------------------------------------------------------------------------------------

    def render(self, plan: Plan) -> Job:
        """See `render.render`."""
        return render.render(plan, self._site)

    def submit(self, jobs: Sequence[Job]) -> Mapping[str, Handle | Refusal | Later]:
        """One object in the spool and one SubmitJob for each that has no job yet, as far as is known here; the runner sees to the others."""
        until = time.monotonic() + self.capabilities.submit_window - LONGEST
        submission = Submission(self._calls, self._definitions, self._spool, lambda: time.monotonic() < until)
        answers: dict[str, Handle | Refusal | Later] = {job.name: Handle(self.name, job.name, known) for job in jobs if (known := self._known(job.name))}
        new = [job for job in jobs if job.name not in answers]
        now = time.monotonic()
        for job in new:  # a job may have ended before the last of these is submitted: its events are for us
            self._released.pop(job.name, None)
            self._sent[job.name] = now
        for job, answer in zip(new, self._each(submission.send, new), strict=True):
            if isinstance(answer, Submitted):
                answers[job.name] = self._submitted(job.name, answer)
            elif answer is not None:
                self._sent.pop(job.name, None)
                answers[job.name] = answer
        return answers

    def find(self, names: Collection[str]) -> Mapping[str, Handle]:
        """One ListJobs for each name and queue: whoever asks does so because something was lost."""
        asked = list(names)
        return {name: Handle(self.name, name, job.job_id) for name, job in zip(asked, self._each(self._find, asked), strict=True) if job is not None}

    def observe(self, handles: Sequence[Handle]) -> Mapping[Handle, Observation]:
        """From the board, after a look at those of which nothing was heard for too long. Reports are read from the spool."""
        denied: Collection[str] = ()
        try:
            denied = self._refresh(handles)
        except errors.Unavailable as cause:  # what events have told is good all the same
            handles = [handle for handle in handles if self._board.job(self._counted(handle)) is not None]
            if not handles:
                raise
            telemetry.log(logger, logging.WARNING, "aws.look.failed", error=str(cause))
        looks = {handle: self._glance(handle, denied) for handle in handles}
        # Few of them need a word with AWS or the spool: these go side by side.
        rest = [handle for handle, look in looks.items() if look is None or look.stop]
        looks.update(zip(rest, self._each(lambda handle: self._look(handle, denied), rest), strict=True))
        return {handle: look.observation for handle, look in looks.items() if look is not None}

    def tail(self, handles: Sequence[Handle]) -> Mapping[Handle, Tails]:
        """From the spool, one read each."""
        read = self._each(lambda handle: self._spool.tail(_attempt(handle.name)), handles)
        return {handle: tail for handle, tail in zip(handles, read, strict=True) if tail is not None}

    def cancel(self, handles: Sequence[Handle]) -> None:
        """One TerminateJob for each that has not ended."""
        stop = Stop(reason=Reason.CANCELED, code=Code.CANCELED, message="stopped")
        self._each(lambda handle: self._terminate(handle, stop), handles)

    def release(self, handles: Sequence[Handle]) -> None:
        """What is in the spool goes, and a second job that has not begun; AWS Batch forgets the others by itself."""
        self._each(self._cleared, handles)
        for handle in handles:
            self._released[handle.name] = None
            self._board.drop(handle.name)
            self._holder.pop(handle.name, None)
            self._sent.pop(handle.name, None)
        while len(self._released) > RELEASED:
            self._released.popitem(last=False)

    def survey(self) -> Iterator[Handle]:
        """All jobs of this server that have not ended, and those that ended since we began and were not released."""
        for name, job in self._looks.live():
            yield Handle(self.name, name, job.job_id)
        for name, job_id in self._board.over():
            yield Handle(self.name, name, job_id)

    def room(self) -> None:
        """AWS Batch queues by itself."""
        return

    # -- looks ------------------------------------------------------------------------------------------------------

    @property
    def _interval(self) -> float:
        """Seconds in which a job of which nothing is heard is not asked for."""
        trusted = self._events is not None and self._events.fresh and not self._missed
        return self._times.sweep if trusted else self._times.poll

    def _counted(self, handle: Handle) -> str:
        """The id of the job that counts for an attempt, as far as is known."""
        return self._holder.get(handle.name, handle.ref)

    def _known(self, name: str) -> str:
        """The id of the job that an attempt is known to have; "" if none is."""
        return self._holder.get(name) or min(self._board.of(name), default="")

    def _submitted(self, name: str, made: Submitted) -> Handle:
        job = JobDetail(job_id=made.job_id, job_name=names.job(self._site.server, name), job_queue=made.queue)
        self._board.put(name, job, time.monotonic())
        return Handle(self.name, name, made.job_id)

    def _refresh(self, handles: Sequence[Handle]) -> set[str]:
        """Look at the jobs of which nothing was heard for too long, and at those for which it will soon be so: a call takes a hundred.

        The ids that AWS Batch denies.
        """
        now, interval = time.monotonic(), self._interval
        old, due = [], False
        for job_id in {self._counted(handle) for handle in handles if handle.name not in self._released}:
            entry = self._board.job(job_id)
            if entry is not None and (entry.job.over or now - entry.seen < interval / 2):
                continue
            old.append(job_id)
            due = due or entry is None or now - entry.seen >= interval
        if not due:
            return set()
        before = {job_id: entry.job.rank for job_id in old if (entry := self._board.job(job_id))}
        found = self._looks.describe(old)
        self._check_events(job for job_id, job in found.items() if job.rank > before.get(job_id, job.rank))
        return set(old) - found.keys()

    def _check_events(self, moved: Iterable[JobDetail]) -> None:
        """Where a look shows what an event should have told, events are not relied on until one comes again."""
        if self._events is None or self._missed:
            return
        now = self._clock()
        for job in moved:
            changed = objects.time_of(job.stopped_at or job.started_at)
            if changed is not None and (now - changed).total_seconds() > LATE:
                self._missed = True
                telemetry.log(logger, logging.WARNING, "aws.events.missing", job=job.job_id, status=job.status)
                return

    def _glance(self, handle: Handle, denied: Collection[str]) -> Look | None:
        """What the board alone tells of an attempt that has one job, and that has not ended; None of any other."""
        if handle.name in self._released:
            return classify(Seen(), self._clock(), self._bounds)
        job_id = self._counted(handle)
        entry = self._board.job(job_id)
        if entry is None or entry.job.over or job_id in denied or self._board.of(handle.name) - {job_id}:
            return None
        return self._judged(handle, entry.job)

    def _look(self, handle: Handle, denied: Collection[str]) -> Look | None:
        """One look at an attempt. None: no news, since AWS or the spool does not answer."""
        try:
            job = self._job(handle, denied)
            look = self._judged(handle, job)
            over = look.observation.phase in (run.Phase.ENDED, run.Phase.GONE) and look.observation.report is None
            if over and self._goes_on(handle.name):
                look = self._judged(handle, self._described(self._holder[handle.name]))
            if look.stop is not None:
                self._terminate(handle, look.stop)
        except errors.TesServerError as cause:
            telemetry.log(logger, logging.WARNING, "aws.look.failed", attempt=handle.name, error=str(cause))
            return None
        return look

    def _job(self, handle: Handle, denied: Collection[str]) -> JobDetail | None:
        """The job that counts for an attempt; None if AWS Batch denies that there is any."""
        several = self._board.of(handle.name) - {handle.ref}
        if several and handle.name not in self._holder:
            self._follow(handle.name)
        job_id = self._counted(handle)
        entry = self._board.job(job_id)
        if job_id not in denied:
            return entry.job if entry else self._described(job_id)
        sent = self._sent.get(handle.name)
        if entry is not None and sent is not None and time.monotonic() - sent < YOUNG:
            return entry.job
        return self._find(handle.name)

    def _judged(self, handle: Handle, job: JobDetail | None) -> Look:
        report = self._spool.report(_attempt(handle.name)) if job is None or job.over else None
        entry = self._board.job(job.job_id) if job else None
        waited = time.monotonic() - entry.blocked if entry and entry.blocked else None
        now = self._clock()
        seen = Seen(
            detail=job,
            report=report,
            blocked=None if waited is None else now - datetime.timedelta(seconds=waited),
            spot=job is not None and job.job_queue.rpartition("/")[2] in self._spot,
            log_group=self._site.log_group,
        )
        return classify(seen, now, self._bounds)

    def _follow(self, name: str) -> bool:
        """The spool tells which job has the attempt: that one counts from now on. False if none has it, or it is known."""
        taken = self._spool.started(_attempt(name))
        if taken is None or self._holder.get(name) == taken.run:
            return False
        self._holder[name] = taken.run
        return True

    def _goes_on(self, name: str) -> bool:
        """Whether another job has the attempt whose job ended without a report. If none has, none will: it must not begin beside the next attempt."""
        if name in self._holder:
            return False
        if self._follow(name):
            return True
        self._spool.withdraw(_attempt(name))
        return self._follow(name)

    def _described(self, job_id: str) -> JobDetail | None:
        return self._looks.describe([job_id]).get(job_id)

    def _find(self, name: str) -> JobDetail | None:
        """The job that has the attempt, else the oldest of its name."""
        found = self._looks.named(name)
        if len(found) > 1:
            self._follow(name)
        held = [job for job in found if job.job_id == self._holder.get(name)]
        return next(iter(held or found), None)

    # -- single calls -----------------------------------------------------------------------------------------------

    def _each(self, call: Callable[[T], U], items: Iterable[T]) -> list[U]:
        """One call for each, side by side. All are made; then the first error is raised."""
        futures = [self._pool.submit(call, item) for item in items]
        concurrent.futures.wait(futures)
        return [future.result() for future in futures]

    def _terminate(self, handle: Handle, stop: Stop) -> None:
        """All jobs of the attempt: one whose submit had no answer may be under way beside the one that is known, or be known to nobody."""
        self._spool.withdraw(_attempt(handle.name))
        self._follow(handle.name)
        for job_id in {handle.ref, *self._board.of(handle.name), self._counted(handle)}:
            entry = self._board.job(job_id)
            if entry is None or not entry.job.over:
                self._calls.batch("terminate_job", {"jobId": job_id, "reason": names.told(stop)})

    def _cleared(self, handle: Handle) -> None:
        attempt = _attempt(handle.name)
        for job_id in self._board.of(handle.name):
            entry = self._board.job(job_id)
            if entry is not None and not entry.job.over:
                self._calls.batch("terminate_job", {"jobId": job_id, "reason": "its attempt is over"})
        self._spool.sweep(attempt)


def _attempt(name: str) -> Attempt:
    return Attempt(run.task_of(name), int(name.rpartition("-")[2]))
