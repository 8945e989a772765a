"""Attempts put onto Azure Batch: their plans into the spool, their tasks in hundreds into jobs, and what refusals mean.

A task's id is its attempt's, so that adding it twice is no harm; one that is there already counts as added.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import msgspec

from tes_server import errors
from tes_server.backends.azure_batch import definition, packing
from tes_server.backends.azure_batch.calls import Calls, NotSent, Refused, Silent
from tes_server.backends.azure_batch.definition import Object, Series
from tes_server.backends.azure_batch.jobs import CLOSED, Jobs
from tes_server.backends.azure_batch.packing import Place
from tes_server.backends.azure_batch.pool_looks import Pools
from tes_server.backends.azure_batch.render import Rendered
from tes_server.backends.azure_batch.site import Site
from tes_server.model.run import Later, Reason, Refusal
from tes_server.telemetry import Code

TASKS = 100
"""Tasks of one call."""

PAUSE = 5.0
"""Seconds until what may pass is tried again."""

SITE_PAUSE = 60.0
"""Seconds until something that a person has to mend is tried again."""

MENDABLE = frozenset({"ActiveJobAndScheduleQuotaReached", "AccountCoreQuotaReached", "PoolNotFound", "JobScheduleDisabled", "OperationInvalidForCurrentState"})
"""Codes of what the site has to mend, or time does: never the task's fault."""

T = TypeVar("T")


class Submitted(NamedTuple):
    """The job that an attempt's task is in, and the pool of it. `new`: it was not there before."""

    job: str
    pool: str
    new: bool = True


Answer = Submitted | Refusal | Later | None
"""None: nobody knows whether it is there."""


class Submission:
    """Submits attempts whose plans are in the spool. `time_left` tells whether another call may still begin within the submit window."""

    def __init__(self, server: Calls, site: Site, jobs: Jobs, pools: Pools, time_left: Callable[[], bool]) -> None:
        self._calls = server
        self._site = site
        self._jobs = jobs
        self._pools = pools
        self._time_left = time_left

    def send(self, rendered: Mapping[str, Rendered]) -> dict[str, Answer]:
        """By attempt's name. All that go into the same job go together."""
        answers: dict[str, Answer] = {}
        try:
            shapes = self._pools.shapes()
        except errors.Unavailable as cause:
            return dict.fromkeys(rendered, _later(cause))
        groups: dict[tuple[str, int], list[Object]] = {}
        for name, each in rendered.items():
            place = packing.choose(each.needs, self._site.pools, shapes)
            if isinstance(place, Place):
                task = each.task if place.slots == 1 else {**each.task, "requiredSlots": place.slots}
                groups.setdefault((place.pool, each.priority), []).append(task)
            else:
                answers[name] = self._unplaced(place)
        for (pool, priority), tasks in groups.items():
            series = definition.series(self._site, pool, priority)
            for chunk in _chunks(tasks, TASKS):
                answers.update(self._add(series, chunk))
            self._pools.came(pool)
        return answers

    def _unplaced(self, words: str) -> Refusal | Later:
        """No pool for it: for ever, unless a pool is merely not there (yet)."""
        missing = self._pools.missing()
        if missing:
            return Later(Code.WAITING_BACKEND, "; ".join(missing), SITE_PAUSE)
        return Refusal(Reason.REJECTED, Code.REJECTED, words)

    def _add(self, series: Series, tasks: Sequence[Object], *, again: bool = True) -> dict[str, Answer]:
        """One call for up to a hundred; a second one where the job was over, and more where the request was too long or one of the tasks is at fault."""
        names = [str(task["id"]) for task in tasks]
        if not self._time_left():
            return dict.fromkeys(names, Later(Code.WAITING_BACKEND, "Azure Batch answers too slowly for all that are to start", PAUSE))
        try:
            job = self._jobs.current(series)
        except errors.Unavailable as cause:  # no task was sent
            return dict.fromkeys(names, _later(cause))
        try:
            results = self._calls.read("create_task_collection", job, {"value": list(tasks)})["value"]
        except NotSent as cause:
            return dict.fromkeys(names, Later(Code.WAITING_BACKEND, cause.public, PAUSE))
        except Silent:
            return dict.fromkeys(names, None)
        except Refused as cause:
            if cause.code in CLOSED:
                self._jobs.closed(series, job)
                return self._add(series, tasks, again=False) if again else dict.fromkeys(names, _judged(cause))
            if cause.faulty and len(tasks) > 1:
                half = len(tasks) // 2
                return {**self._add(series, tasks[:half]), **self._add(series, tasks[half:])}
            if cause.doubtful:
                return dict.fromkeys(names, None)
            return dict.fromkeys(names, _judged(cause))
        found: dict[str, Answer] = {str(result["taskId"]): _answer(result, job, series.pool) for result in results}
        self._jobs.took(series, sum(isinstance(answer, Submitted) for answer in found.values()))
        return found


def _answer(result: Mapping[str, Any], job: str, pool: str) -> Answer:
    """What became of one task of a collection (BatchTaskCreateResult)."""
    error = result.get("error") or {}
    code = str(error.get("code") or "")
    if result.get("status") == "success" or code == "TaskExists":
        return Submitted(job, pool, new=code != "TaskExists")
    message = error.get("message") or {}
    words = f"Azure Batch refuses the task: {message.get('value') or code}"
    details = "; ".join(f"{part.get('key')}: {part.get('value')}" for part in error.get("values") or ())
    refused = Refused(f"{words}{f' ({details})' if details else ''}", code, 400 if result.get("status") == "clienterror" else 500)
    return None if refused.doubtful else _judged(refused)


def _judged(cause: Refused) -> Refusal | Later:
    """What an answer that is an error comes to."""
    if cause.throttled:
        return _later(cause)
    if cause.denied or cause.code in MENDABLE or not cause.faulty:
        return Later(Code.WAITING_BACKEND, cause.public, SITE_PAUSE)
    return Refusal(Reason.REJECTED, Code.REJECTED, cause.public)


def _later(cause: errors.Unavailable) -> Later:
    """Nothing was started."""
    if isinstance(cause, Refused) and not cause.throttled and not cause.doubtful:
        return Later(Code.WAITING_BACKEND, cause.public, SITE_PAUSE)
    after = cause.after if isinstance(cause, Refused) else 0.0
    return Later(Code.WAITING_BACKEND, cause.public, max(PAUSE, after))


def _chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    left = iter(items)
    while chunk := list(itertools.islice(left, size)):
        yield chunk


def decoded(body: bytes) -> Rendered:
    """The body of a rendered attempt."""
    return msgspec.json.decode(body, type=Rendered)
