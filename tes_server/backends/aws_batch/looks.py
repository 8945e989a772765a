"""Asking AWS Batch about jobs: by id in hundreds, by name, and all that are live. Fills the board; concludes nothing."""

from __future__ import annotations

import itertools
import time
from collections.abc import Collection, Iterable, Iterator
from typing import Any

from tes_server.backends.aws_batch import names, objects
from tes_server.backends.aws_batch.board import Board
from tes_server.backends.aws_batch.calls import Calls
from tes_server.backends.aws_batch.objects import JobDetail

IDS = 100
"""Ids that one DescribeJobs takes."""

LIVE = ("SUBMITTED", "PENDING", "RUNNABLE", "STARTING", "RUNNING")


class Looks:
    """One account's jobs of one server, in `queues`."""

    def __init__(self, server: Calls, board: Board, server_name: str, queues: tuple[str, ...]) -> None:
        self._calls = server
        self._board = board
        self._server = server_name
        self._queues = queues

    def describe(self, job_ids: Collection[str]) -> dict[str, JobDetail]:
        """Those of the ids that AWS Batch knows, one call for a hundred."""
        found: dict[str, JobDetail] = {}
        for chunk in _chunks(job_ids):
            for answer in self._calls.batch("describe_jobs", {"jobs": chunk})["jobs"]:
                job = objects.detail(answer)
                found[job.job_id] = job
                name = names.attempt(self._server, job.job_name)
                if name:
                    self._board.put(name, job, time.monotonic())
        return found

    def named(self, name: str) -> list[JobDetail]:
        """All jobs of an attempt, the oldest first. AWS Batch ignores letters' case in this search."""
        wanted = names.job(self._server, name)
        found = [
            objects.detail({**answer, "jobQueue": queue})
            for queue in self._queues
            for answer in self._pages({"jobQueue": queue, "filters": [{"name": "JOB_NAME", "values": [wanted]}]})
            if answer["jobName"] == wanted
        ]
        for job in found:
            self._board.put(name, job, time.monotonic())
        return sorted(found, key=lambda job: (job.created_at, job.job_id))

    def live(self) -> Iterator[tuple[str, JobDetail]]:
        """Every attempt of this server that has not ended, and its job."""
        for queue, status in itertools.product(self._queues, LIVE):
            for answer in self._pages({"jobQueue": queue, "jobStatus": status}):
                name = names.attempt(self._server, str(answer["jobName"]))
                if name:
                    yield name, objects.detail({**answer, "jobQueue": queue})

    def _pages(self, request: dict[str, Any]) -> Iterator[dict[str, Any]]:
        token = ""
        while True:
            answer = self._calls.batch("list_jobs", {**request, **({"nextToken": token} if token else {})})
            yield from answer["jobSummaryList"]
            token = answer.get("nextToken") or ""
            if not token:
                return


def _chunks(items: Iterable[str]) -> Iterator[list[str]]:
    left = iter(items)
    while chunk := list(itertools.islice(left, IDS)):
        yield chunk
