"""What is read of AWS Batch's answers and events; both have the shape of DescribeJobs (AWS Batch API reference, JobDetail). Pure values."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any

import msgspec

ORDER = ("SUBMITTED", "PENDING", "RUNNABLE", "STARTING", "RUNNING", "SUCCEEDED", "FAILED")
"""The states of a job that is never retried, in the only order in which it can have them."""

OVER = frozenset({"SUCCEEDED", "FAILED"})


class Container(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """How the runner's container is, or ended."""

    exit_code: int | None = None
    reason: str = ""
    log_stream_name: str = ""


class JobDetail(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """One job. Times are milliseconds since 1970; 0 = not yet."""

    job_id: str
    job_name: str
    job_queue: str = ""
    status: str = "SUBMITTED"
    status_reason: str = ""
    created_at: int = 0
    started_at: int = 0
    stopped_at: int = 0
    container: Container = Container()
    is_cancelled: bool = False
    is_terminated: bool = False

    @property
    def rank(self) -> int:
        """How far it is; a state that is not known here counts as the first."""
        return ORDER.index(self.status) if self.status in ORDER else 0

    @property
    def over(self) -> bool:
        """Nothing of it runs any more, as far as AWS Batch knows."""
        return self.status in OVER


class Event(msgspec.Struct, frozen=True):
    """An event of EventBridge, as it lies in the queue."""

    source: str = ""
    kind: str = msgspec.field(default="", name="detail-type")
    detail: msgspec.Raw = msgspec.Raw(b"{}")


def detail(answer: Mapping[str, Any]) -> JobDetail:
    """From a decoded answer."""
    return msgspec.convert(answer, JobDetail, strict=False)


def time_of(milliseconds: int) -> datetime.datetime | None:
    """Such a time; None = not yet."""
    return datetime.datetime.fromtimestamp(milliseconds / 1000, datetime.UTC) if milliseconds else None
