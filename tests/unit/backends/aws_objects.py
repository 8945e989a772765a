"""DescribeJobs answers in the shape that AWS documents, for tests of what is made of them."""

from __future__ import annotations

import datetime
from typing import Any

from tes_server.backends.aws_batch import objects
from tes_server.backends.aws_batch.objects import JobDetail

NOW = datetime.datetime(2026, 5, 4, 12, 0, tzinfo=datetime.UTC)


def at(seconds: float) -> int:
    """Milliseconds since 1970, so long after NOW."""
    return int((NOW.timestamp() + seconds) * 1000)


def job(status: str = "RUNNING", name: str = "tes_abc-1", job_id: str = "j-1", **fields: Any) -> JobDetail:
    """As boto3 decodes it; RUNNING and what comes after has begun a minute ago."""
    begun = {"startedAt": at(-60)} if status in ("RUNNING", "SUCCEEDED", "FAILED") else {}
    over = {"stoppedAt": at(-50)} if status in ("SUCCEEDED", "FAILED") else {}
    queue = "arn:aws:batch:eu-central-1:123456789012:job-queue/spot"
    return objects.detail({"jobId": job_id, "jobName": name, "jobQueue": queue, "status": status, "createdAt": at(-120), **begun, **over, **fields})
