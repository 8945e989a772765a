"""The Azure Batch backend: attempts are tasks, added in hundreds and heard of by what changes in their jobs; plans and reports go through the spool.

It must never conclude from silence: a task that its job does not show is asked for by its name before it is told to be gone, and a node that is silent
may still run what it had.
"""

from __future__ import annotations

import concurrent.futures
import datetime
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeVar

from tes_server import errors, structs
from tes_server.backends.azure_batch import definition, names, render
from tes_server.backends.azure_batch.attempts import Attempts, attempt
from tes_server.backends.azure_batch.board import Board
from tes_server.backends.azure_batch.calls import LONGEST, Calls
from tes_server.backends.azure_batch.classify import Bounds
from tes_server.backends.azure_batch.jobs import Jobs
from tes_server.backends.azure_batch.looks import Looks, News
from tes_server.backends.azure_batch.pool_looks import Pools
from tes_server.backends.azure_batch.render import Rendered
from tes_server.backends.azure_batch.site import Site
from tes_server.backends.azure_batch.submit import Submission, Submitted, decoded
from tes_server.backends.base import Job
from tes_server.filer.spool import Attempt, Spool
from tes_server.model.run import Handle, Later, Observation, Refusal, Tails
from tes_server.plan.policy import Capabilities
from tes_server.plan.steps import Plan
from tes_server.telemetry import Code

THREADS = 16
"""Requests side by side."""

TIDY = 6 * 3600.0
"""Seconds between two times that old jobs are ended and deleted."""

EAGER = 3.0
"""Seconds that a task waits for a node before its pool is told to grow."""

WAITED = 20.0
"""Seconds that a task waits for a node before its pool is asked why."""

FEW = 20
"""Attempts that are asked for one by one where nothing is known of them."""

SOON = 10.0
"""Seconds within which a submit usually ends: looks at jobs overlap by more."""

T = TypeVar("T")
U = TypeVar("U")


class Times(NamedTuple):
    """How often jobs are looked at, in seconds; and after how many tasks the next job is begun."""

    poll: float = 10.0
    job_tasks: int = 20_000


class AzureBatchBackend:
    """Backend of one account."""

    name = "azure_batch"
    place = ""
    """every process reaches Azure"""

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
    ) -> None:
        self.capabilities = capabilities
        self._calls = server
        self._site = site
        self._clock = clock
        self._spool = kept
        times = times or Times()
        self._jobs = Jobs(server, site.server, definition.every(site), times.job_tasks, self._now)
        self._pools = Pools(server, site.pools)
        self._board = Board()
        self._looks = Looks(server, self._board, times.poll, self._beside)
        self._attempts = Attempts(server, site, kept, self._board, self._looks, bounds or Bounds(), self._now)
        self._threads = concurrent.futures.ThreadPoolExecutor(THREADS, thread_name_prefix="azure-batch")
        self._tidied = float("-inf")

    # -- life -------------------------------------------------------------------------------------------------------

    def resume(self) -> None:
        """Begin to look."""
        structs.settle()
        self._looks.start()

    def close(self) -> None:
        """Stop threads and connections."""
        self._looks.stop()
        self._threads.shutdown()
        self._calls.close()

    def listen(self, news: News) -> None:
        """Whatever looks show is told at once."""
        self._looks.listen(news)

    def _beside(self) -> None:
        """After each round of looks: what pools are told, and asked; now and then old jobs. Raises what `Calls` does."""
        now = time.monotonic()
        self._pools.grow(self._board.waiting(now - EAGER))
        waiting = self._board.waiting(now - WAITED)
        self._attempts.faults = {pool: self._pools.faults(pool) for pool in waiting}
        if time.monotonic() - self._tidied >= TIDY:
            self._jobs.tidy()
            self._tidied = time.monotonic()

    # -- the protocol -----------------------------------------------------------------------------------------------

    def render(self, plan: Plan) -> Job:
        """See `render.render`."""
        return render.render(plan, self._site)

    def submit(self, jobs: Sequence[Job]) -> Mapping[str, Handle | Refusal | Later]:
        """One object in the spool for each, and one call for each hundred that go to the same pool."""
        until = time.monotonic() + self.capabilities.submit_window - LONGEST
        answers: dict[str, Handle | Refusal | Later] = {job.name: self._handle(job.name, known.job) for job in jobs if (known := self._board.get(job.name))}
        rendered = {job.name: decoded(job.body) for job in jobs if job.name not in answers}
        stored = dict(zip(rendered, self._each(self._put_plan, rendered.values()), strict=True))
        answers.update({name: later for name, later in stored.items() if later is not None})
        began = time.monotonic()
        submission = Submission(self._calls, self._site, self._jobs, self._pools, lambda: time.monotonic() < until)
        sent = submission.send({name: each for name, each in rendered.items() if stored[name] is None})
        for name, answer in sent.items():
            if isinstance(answer, Submitted):
                self._attempts.added(name, answer, soon=time.monotonic() - began < SOON)
                answers[name] = self._handle(name, answer.job)
            elif answer is not None:
                answers[name] = answer
        return answers

    def find(self, names: Collection[str]) -> Mapping[str, Handle]:
        """One look for each name in each job that takes tasks: whoever asks does so because something was lost."""
        asked = list(names)
        jobs = self._jobs.live()
        found = self._each(lambda name: next((job for job in jobs if self._attempts.task(job, name) is not None), None), asked)
        for name, job in zip(asked, found, strict=True):
            if job is not None:
                self._attempts.expect(name, job)
        return {name: self._handle(name, job) for name, job in zip(asked, found, strict=True) if job is not None}

    def observe(self, handles: Sequence[Handle]) -> Mapping[Handle, Observation]:
        """From the board. Reports are read from the spool; Azure is asked only of what it has not shown, or queued anew."""
        new = [handle for handle in handles if self._attempts.new(handle)]
        if len(new) <= FEW:  # their job's next look need not be waited for
            self._each(self._attempts.ask, new)
        else:
            for handle in new:
                self._attempts.expect(handle.name, self._attempts.job_of(handle))
        silent = [self._attempts.silent(handle) for handle in handles]
        heard = [handle for handle, why in zip(handles, silent, strict=True) if why is None]
        if handles and not heard:
            raise silent[0] or errors.Unavailable("Azure Batch does not answer")
        looks = zip(heard, self._each(self._attempts.look, heard), strict=True)
        return {handle: look.observation for handle, look in looks if look is not None}

    def tail(self, handles: Sequence[Handle]) -> Mapping[Handle, Tails]:
        """From the spool, one read each."""
        read = self._each(lambda handle: self._spool.tail(attempt(handle.name)), handles)
        return {handle: tail for handle, tail in zip(handles, read, strict=True) if tail is not None}

    def cancel(self, handles: Sequence[Handle]) -> None:
        """One call for each that has not ended."""
        self._each(self._attempts.cancel, handles)

    def release(self, handles: Sequence[Handle]) -> None:
        """What is in the spool goes; Azure Batch forgets the task with its job."""
        self._each(lambda handle: self._spool.sweep(attempt(handle.name)), handles)
        self._attempts.release([handle.name for handle in handles])

    def survey(self) -> Iterator[Handle]:
        """All tasks of this server that have not ended, and those that ended since we began and were not released."""
        for job in self._jobs.live():
            for task in self._calls.listed("list_tasks", job, filter="state ne 'completed'", select=["id"]).items:
                if names.ATTEMPT.fullmatch(str(task["id"])):
                    yield self._handle(str(task["id"]), job)
        for name, job_id in self._board.over():
            yield self._handle(name, job_id)

    def room(self) -> None:
        """Azure Batch queues by itself."""
        return

    # -- single calls -----------------------------------------------------------------------------------------------

    def _handle(self, name: str, job: str) -> Handle:
        return Handle(self.name, name, job)

    def _now(self) -> datetime.datetime:
        """The time by the clock of Azure Batch, which all times of tasks are by; by ours while it has not told."""
        return self._calls.now() or self._clock()

    def _each(self, call: Callable[[T], U], items: Iterable[T]) -> list[U]:
        """One call for each, side by side. All are made; then the first error is raised."""
        futures = [self._threads.submit(call, item) for item in items]
        concurrent.futures.wait(futures)
        return [future.result() for future in futures]

    def _put_plan(self, rendered: Rendered) -> Later | None:
        try:
            self._spool.put_plan(Attempt(rendered.plan.task_id, rendered.plan.attempt), rendered.plan)
        except errors.Unavailable as cause:
            return Later(Code.WAITING_BACKEND, cause.public)
        return None
